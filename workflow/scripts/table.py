"""Make one table, out of HDF5 files or out of other tables."""

from relstab.files.hdf5 import write_table
from relstab.stages import tables
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    options = snakemake.params.options
    inputs = {name: read_tables(files)[0] if str(files).endswith(".csv") else files for name, files in snakemake.input.items()}
    make_table = getattr(tables, options["function"])
    write_table(snakemake.output.table, make_table(**inputs, **options["arguments"]))
