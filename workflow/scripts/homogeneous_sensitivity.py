"""Measure networks of homogeneous filters."""

from relstab.stages.scale_detection import measure_homogeneous

from job import job

with job(snakemake):
    measure_homogeneous(snakemake.output.sensitivity, snakemake.params.options["seed"])
