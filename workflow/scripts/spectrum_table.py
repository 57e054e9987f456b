"""Collect filter spectra of all networks."""

from relstab.storage import write_table
from relstab.tables import spectrum_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, spectrum_table(snakemake.input.spectra))
