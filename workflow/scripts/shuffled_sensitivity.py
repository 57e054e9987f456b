"""Measure D, G and R of every layer of one network with shuffled channels."""

from job import job

from relstab.config import load_config
from relstab.measurement import measure_shuffled

with job(snakemake):
    config = load_config(snakemake.config)
    measure_shuffled(
        snakemake.output.sensitivity,
        snakemake.input.network,
        snakemake.input.probes,
        batch_size=config.sensitivity.batch_size,
        device=config.device,
        **snakemake.params,
    )
