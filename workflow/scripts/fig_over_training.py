"""Draw D, G and R over training."""

from relstab.figures import over_training
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.over_training)
    with style(snakemake.params.font_size):
        figure = over_training.draw(*tables)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
