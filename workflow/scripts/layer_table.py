"""Collect what was measured on simple CNNs."""

from relstab.files.hdf5 import write_table
from relstab.tables.scale_detection import layer_table

from job import job

with job(snakemake):
    write_table(snakemake.output.table, layer_table(snakemake.input.measured, snakemake.input.homogeneous))
