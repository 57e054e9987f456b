"""Perturb test images of the scale-detection task."""

from relstab.stages.scale_detection import save_pair_probes

from job import job

with job(snakemake):
    save_pair_probes(snakemake.output.probes, snakemake.input.dataset, **snakemake.params.options)
