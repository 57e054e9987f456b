"""Keep one of torchvision's networks as one that was trained here is kept."""

import contextlib

from relstab.stages.imagenet import read_calibration_images, write_pretrained

from job import device, job

images = snakemake.input.get("images")
# Without images nothing goes through the network, and no GPU is needed.
with job(snakemake), device(snakemake) if images else contextlib.nullcontext("cpu") as place:
    write_pretrained(
        snakemake.output.network,
        snakemake.wildcards.architecture,
        snakemake.input.get("weights"),
        read_calibration_images(images) if images else None,
        seed=snakemake.params.options["seed"],
        device=place,
    )
