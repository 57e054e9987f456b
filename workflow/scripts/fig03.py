"""Draw figure 3: R_k with shuffled channels."""

from relstab.figures import shuffled_layers
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.sensitivity)
    with style(snakemake.params.font_size):
        figure = shuffled_layers.draw(*tables)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
