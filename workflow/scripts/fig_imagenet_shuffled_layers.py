"""Draw R_k of ImageNet networks, as they are and with shuffled channels."""

from relstab.figures import shuffled_layers
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    (table,) = read_tables(snakemake.input.sensitivity)
    with style(snakemake.params.font_size):
        figure = shuffled_layers.draw_pretrained(table)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
