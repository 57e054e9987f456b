"""Draw ReLU against tanh."""

from relstab.figures import relu_tanh
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.layers)
    with style(snakemake.params.font_size):
        figure = relu_tanh.draw(*tables, **snakemake.params.interval)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
