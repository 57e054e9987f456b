"""Draw figure 14: filter spectra of ImageNet networks."""

from relstab.figures import filter_spectra
from relstab.figures.style import save_figure, style
from relstab.tables.networks import read_tables

from job import job

with job(snakemake):
    (table,) = read_tables(snakemake.input.spectrum)
    with style(snakemake.params.font_size):
        figure = filter_spectra.draw_pretrained(table)
        save_figure(figure, snakemake.output, snakemake.params.dpi)
