"""Fit exponents of the sensitivities of simple CNNs."""

from relstab.files.hdf5 import write_table
from relstab.tables.networks import read_tables
from relstab.tables.scale_detection import exponent_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, exponent_table(*read_tables(snakemake.input.layers), **snakemake.params))
