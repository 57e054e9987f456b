"""Load a data set, check it, and write it to HDF5."""

from relstab.datasets import prepare_dataset

from job import job

with job(snakemake):
    options = {"root": snakemake.config["data"]["root"], **snakemake.params.options}
    options.pop("source", None)
    prepare_dataset(snakemake.output.dataset, snakemake.wildcards.dataset, workers=snakemake.threads, **options)
