"""Measure networks of homogeneous filters."""

from relstab.scale_detection.stages import measure_homogeneous

from job import job

with job(snakemake):
    measure_homogeneous(snakemake.output.sensitivity, snakemake.params.seed)
