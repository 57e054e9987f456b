"""Collect D, G and R of all networks."""

from relstab.files.hdf5 import write_table
from relstab.tables.networks import sensitivity_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, sensitivity_table(snakemake.input.measured, snakemake.input.shuffled))
