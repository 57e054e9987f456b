"""Measure the simple CNNs of one experiment and activation."""

from relstab.stages.scale_detection import measure_saved_ensemble

from job import device, job

with job(snakemake), device(snakemake) as device_name:
    measure_saved_ensemble(
        snakemake.output.sensitivity,
        snakemake.input.network,
        snakemake.params.options["probes"],
        snakemake.params.options["seed"],
        snakemake.config["sensitivity"]["batch_size"],
        device_name,
    )
