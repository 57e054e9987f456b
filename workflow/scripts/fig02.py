"""Draw figure 2: spatial and channel pooling."""

from relstab.figures import pooling
from relstab.figures.pooling_illustration import pooling_illustration
from relstab.figures.style import save_figure, style

from job import job

with job(snakemake), style(snakemake.params.font_size):
    save_figure(pooling.draw(pooling_illustration()), snakemake.output, snakemake.params.dpi)
