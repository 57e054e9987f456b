"""Draw figure 13: filter spectra of all architectures with skip connections."""

from relstab.figures import filter_spectra
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    tables = read_tables(snakemake.input.networks, snakemake.input.spectrum)
    with style(snakemake.params.font_size):
        figure = filter_spectra.draw_all(*tables, skips=True)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
