"""Correlate errors and sensitivities over networks."""

from relstab.files.hdf5 import write_table
from relstab.tables.networks import correlation_table, read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.sensitivity)
    write_table(snakemake.output.table, correlation_table(*tables, **snakemake.params))
