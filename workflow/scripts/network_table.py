"""Collect errors of all networks."""

from relstab.files.hdf5 import write_table
from relstab.tables.networks import network_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, network_table(snakemake.input.networks, **snakemake.params))
