"""Decide the claims from the tables."""

from relstab.files.hdf5 import write_table
from relstab.tables.claims import claim_table
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    names = list(snakemake.input.keys())
    tables = dict(zip(names, read_tables(*(snakemake.input[name] for name in names)), strict=True))
    write_table(snakemake.output.table, claim_table(**tables, **snakemake.params))
