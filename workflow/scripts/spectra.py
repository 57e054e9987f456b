"""Analyse the filters of one network."""

from relstab.stages.spectra import analyse_filters

from job import job

with job(snakemake):
    analyse_filters(snakemake.output.spectra, snakemake.input.network, **snakemake.params.options)
