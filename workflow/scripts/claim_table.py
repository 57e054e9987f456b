"""Decide the claims from the tables."""

from relstab.claims import claim_table
from relstab.storage import write_table
from relstab.tables import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.sensitivity, snakemake.input.spectrum)
    write_table(snakemake.output.table, claim_table(*tables, **snakemake.params))
