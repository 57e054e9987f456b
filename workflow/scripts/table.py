"""Make one table, out of HDF5 files or out of other tables."""

from relstab.files.hdf5 import write_table
from relstab.stages.tables import make_table

from job import job

with job(snakemake):
    options = snakemake.params.options
    write_table(snakemake.output.table, make_table(options["function"], dict(snakemake.input.items()), options["arguments"]))
