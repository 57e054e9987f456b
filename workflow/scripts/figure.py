"""Draw one figure, PDF and PNG."""

import os

os.environ["MPLBACKEND"] = "Agg"  # also if a notebook that started the run has set another

from relstab.figures import FIGURES
from relstab.figures.style import save_figure, style
from relstab.files.probes import read_images
from relstab.tables.networks import of_sizes, read_table

from job import job

with job(snakemake):
    entry, options = FIGURES[snakemake.wildcards.figure], snakemake.params.options
    tables = {argument: of_sizes(read_table(snakemake.input[argument]), entry.every_size) for argument in entry.tables}
    arguments = tables | options["draw"]
    if {"images", "probe"} & set(entry.needs):
        noisy = dict(zip(options.get("noise", []), snakemake.input.get("noisy", []), strict=True))
        images = read_images(snakemake.input.probes, noisy, options["example"])
        arguments |= images if noisy else {"probe": images["probe"]}
    with style(options["font_size"]):
        save_figure(entry.draw(**arguments), snakemake.output, options["dpi"], options["note"])
