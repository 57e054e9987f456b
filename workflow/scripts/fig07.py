"""Draw figure 7: D_k and G_k of simple CNNs against A_k."""

from relstab.figures import pooling_scaling
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.layers, snakemake.input.exponents)
    with style(snakemake.params.font_size):
        figure = pooling_scaling.draw(*tables)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
