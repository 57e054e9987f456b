"""Draw figure 5: samples of the scale-detection tasks."""

from relstab.figures import scale_detection_samples
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.samples)
    with style(snakemake.params.font_size):
        figure = scale_detection_samples.draw(*tables)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
