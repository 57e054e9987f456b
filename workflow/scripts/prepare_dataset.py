"""Load a data set, check it, and write it to HDF5."""

from relstab.datasets import prepare_dataset

from job import job

with job(snakemake):
    prepare_dataset(
        snakemake.output.dataset,
        snakemake.wildcards.dataset,
        workers=snakemake.threads,
        # Elsewhere the same files are the same data set; a folder of images is another one.
        **{"root": snakemake.config["data"]["root"], **snakemake.params},
    )
