"""Collect what was measured on simple CNNs."""

from relstab.scale_detection.tables import layer_table
from relstab.storage import write_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, layer_table(snakemake.input.measured, snakemake.input.homogeneous))
