"""Draw figure 9: D, G and R of deep networks on the scale-detection task."""

from relstab.figures import deep_scale_detection_layers
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.sensitivity)
    with style(snakemake.params.font_size):
        figure = deep_scale_detection_layers.draw(*tables)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
