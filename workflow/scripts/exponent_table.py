"""Fit exponents of the sensitivities of simple CNNs."""

from relstab.scale_detection.tables import exponent_table
from relstab.storage import write_table
from relstab.tables import read_tables

from job import job

with job(snakemake):
    write_table(snakemake.output.table, exponent_table(*read_tables(snakemake.input.layers), **snakemake.params))
