"""Draw figure 11: D_k and G_k."""

from relstab.figures import layer_sensitivities
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.sensitivity)
    with style(snakemake.params.font_size):
        figure = layer_sensitivities.draw(*tables)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
