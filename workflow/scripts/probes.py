"""Perturb test images: the probes of one noise level."""

from relstab.stages.probes import perturb_test_images

from job import job

with job(snakemake):
    perturb_test_images(snakemake.output.probes, snakemake.input.test, **snakemake.params.options)
