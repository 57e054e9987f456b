"""Analyse the filters of one network."""

from job import job

from relstab.filter_spectra import write_spectra

with job(snakemake):
    write_spectra(snakemake.output.spectra, snakemake.input.network, snakemake.params.weights)
