"""Measure D, G and R of the output of one network for many displacements and cutoffs."""

from relstab.stages.sensitivity import measure_sweep

from job import device, job

with job(snakemake), device(snakemake) as device_name:
    measure_sweep(
        snakemake.output.sensitivity,
        snakemake.input.network,
        snakemake.input.test,
        batch_size=snakemake.config["sensitivity"]["batch_size"],
        device=device_name,
        **snakemake.params.options,
    )
