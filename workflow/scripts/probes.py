"""Perturb test images: the probes of one noise level."""

from job import job

from relstab.probes import write_probes

with job(snakemake):
    write_probes(snakemake.output.probes, snakemake.input.noisy_test, **snakemake.params)
