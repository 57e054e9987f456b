"""Write the test images of one noise level."""

from relstab.data.datasets import read_dataset, write_noisy_test

from job import job

with job(snakemake):
    dataset = read_dataset(snakemake.input.dataset)
    write_noisy_test(snakemake.output.noisy_test, dataset, float(snakemake.wildcards.noise), snakemake.params.options["seed"])
