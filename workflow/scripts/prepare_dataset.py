"""Load a data set, check it, and write it to HDF5."""

from relstab.datasets import prepare_dataset

from job import job

with job(snakemake):
    root = snakemake.config["data"]["root"]
    prepare_dataset(snakemake.output.dataset, snakemake.wildcards.dataset, root, **snakemake.params)
