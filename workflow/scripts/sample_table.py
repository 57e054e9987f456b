"""Draw samples of the scale-detection tasks."""

from relstab.scale_detection.samples import sample_table
from relstab.scale_detection.tasks import ScaleTask
from relstab.storage import write_table

from job import job

with job(snakemake):
    tasks = {name: ScaleTask(**task) for name, task in snakemake.params.tasks.items()}
    write_table(snakemake.output.table, sample_table(tasks, seed=snakemake.params.seed))
