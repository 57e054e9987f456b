"""Load a data set, check it, and write it to HDF5."""

from job import job

from relstab.config import load_config
from relstab.datasets import prepare_dataset

with job(snakemake):
    root = load_config(snakemake.config).data.root
    prepare_dataset(snakemake.output.dataset, snakemake.wildcards.dataset, root, **snakemake.params)
