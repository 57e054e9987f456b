"""Collect D, G and R over training."""

from relstab.files.hdf5 import write_table
from relstab.tables.networks import over_training_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, over_training_table(snakemake.input.measured))
