"""Draw figure 1: error and sensitivities."""

from relstab.figures import relative_sensitivity
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.sensitivity, snakemake.input.correlation)
    example = snakemake.params.example
    probe = relative_sensitivity.read_sample(snakemake.input.probes, example, ("images", "deformed", "noisy"))
    noisy = {
        noise: relative_sensitivity.read_sample(path, example)["images"]
        for noise, path in zip(snakemake.params.noise, snakemake.input.noisy, strict=True)
    }
    with style(snakemake.params.font_size):
        figure = relative_sensitivity.draw(*tables, probe, noisy)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
