"""Correlate errors and sensitivities over networks."""

from job import job

from relstab.storage import write_table
from relstab.tables import correlation_table, read_tables

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.sensitivity)
    write_table(snakemake.output.table, correlation_table(*tables, **snakemake.params))
