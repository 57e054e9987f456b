"""Perturb test images: the probes of one noise level."""

from relstab.probes import write_probes

from job import job

with job(snakemake):
    write_probes(snakemake.output.probes, snakemake.input.test, **snakemake.params.options)
