"""Write the images of the scale-detection task as a data set."""

from relstab.scale_detection.design import PAIRS
from relstab.scale_detection.tasks import ScaleTask
from relstab.stages.scale_detection import save_pair_dataset

from job import job

with job(snakemake):
    options = snakemake.params.options
    task = ScaleTask(**options["task"])
    save_pair_dataset(snakemake.output.dataset, PAIRS, task, options["train"], options["test"], options["seed"])
