"""Measure D, G and R of every layer of one network at its snapshots."""

from relstab.stages.sensitivity import measure_over_training

from job import device, job

with job(snakemake), device(snakemake) as device_name:
    measure_over_training(
        snakemake.output.sensitivity,
        snakemake.input.network,
        snakemake.input.probes,
        batch_size=snakemake.config["sensitivity"]["batch_size"],
        device=device_name,
    )
