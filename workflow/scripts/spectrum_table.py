"""Collect filter spectra of all networks."""

from relstab.files.hdf5 import write_table
from relstab.tables.networks import spectrum_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, spectrum_table(snakemake.input.spectra))
