"""Draw figure 10: error against D, G and R."""

from relstab.figures import error_scatter
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.sensitivity, snakemake.input.correlation)
    with style(snakemake.params.font_size):
        figure = error_scatter.draw(*tables)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
