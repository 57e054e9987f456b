"""Choose and decode images for pretrained networks."""

from relstab.stages.imagenet import write_imagenet_images

from job import job

with job(snakemake):
    write_imagenet_images(snakemake.output.images, **snakemake.params.options)
