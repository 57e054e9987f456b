"""Collect errors of all networks."""

from relstab.storage import write_table
from relstab.tables import network_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, network_table(snakemake.input.networks, **snakemake.params))
