"""Analyse the filters of one network."""

from relstab.filter_spectra import write_spectra

from job import job

with job(snakemake):
    write_spectra(snakemake.output.spectra, snakemake.input.network, snakemake.params.weights)
