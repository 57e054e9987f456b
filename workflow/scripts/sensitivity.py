"""Measure D, G and R of every layer of one network."""

from job import job

from relstab.config import load_config
from relstab.measurement import measure_network

with job(snakemake):
    config = load_config(snakemake.config)
    measure_network(
        snakemake.output.sensitivity,
        snakemake.input.network,
        snakemake.input.probes,
        snakemake.params.weights,
        config.sensitivity.batch_size,
        config.device,
    )
