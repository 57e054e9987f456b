"""Perturb test images of the scale-detection task."""

from relstab.scale_detection.pair_images import write_pair_probes

from job import job

with job(snakemake):
    write_pair_probes(snakemake.output.probes, snakemake.input.dataset, **snakemake.params.options)
