"""Draw samples of the scale-detection tasks."""

from relstab.files.hdf5 import write_table
from relstab.scale_detection.samples import sample_table
from relstab.scale_detection.tasks import ScaleTask

from job import job

with job(snakemake):
    tasks = {name: ScaleTask(**task) for name, task in snakemake.params.tasks.items()}
    write_table(snakemake.output.table, sample_table(tasks, seed=snakemake.params.seed))
