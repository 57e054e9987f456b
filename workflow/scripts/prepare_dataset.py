"""Find, download, decode or make a data set, check it, and write it to HDF5."""

from relstab.data.datasets import IMAGE_FOLDER
from relstab.data.published import PUBLISHED
from relstab.stages.datasets import prepare_dataset

from job import job

with job(snakemake) as report:
    name = snakemake.wildcards.dataset
    if name == IMAGE_FOLDER or name in PUBLISHED:
        report(f"progress of downloading and decoding is in {snakemake.log[0]}")
    options = {"root": snakemake.config["data"]["root"], **snakemake.params.options}
    del options["source"]  # the text of the user's code, which the function reads itself
    least = snakemake.config["probes"]["images"]
    prepare_dataset(snakemake.output.dataset, name, workers=snakemake.threads, least_test_images=least, **options)
