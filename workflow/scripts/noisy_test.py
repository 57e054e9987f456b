"""Write the test images of one noise level."""

from relstab.stages.datasets import write_noisy_test

from job import job

with job(snakemake):
    sigma = float(snakemake.wildcards.noise)
    write_noisy_test(snakemake.output.noisy_test, snakemake.input.dataset, sigma, snakemake.params.options["seed"])
