"""Perturb images for pretrained networks."""

from relstab.stages.imagenet import write_imagenet_probes

from job import job

with job(snakemake):
    write_imagenet_probes(snakemake.output.probes, snakemake.input.images, **snakemake.params.options)
