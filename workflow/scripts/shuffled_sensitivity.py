"""Measure D, G and R of every layer of one network with shuffled channels."""

from relstab.stages.sensitivity import measure_shuffled

from job import device, job

with job(snakemake), device(snakemake) as device_name:
    measure_shuffled(
        snakemake.output.sensitivity,
        snakemake.input.network,
        snakemake.input.probes,
        batch_size=snakemake.config["sensitivity"]["batch_size"],
        device=device_name,
        **snakemake.params.options,
    )
