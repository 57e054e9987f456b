"""Collect D, G and R of all networks."""

from relstab.storage import write_table
from relstab.tables import sensitivity_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, sensitivity_table(snakemake.input.measured, snakemake.input.shuffled))
