"""Write a pretrained network of torchvision or timm in the format of the networks that are trained here."""

import contextlib

from relstab.files.network import out_of_file_names
from relstab.stages.imagenet import read_calibration_images, write_pretrained

from job import device, job

images = snakemake.input.get("images")
# Without images, nothing passes through the network, so no GPU is needed.
with job(snakemake), device(snakemake) if images else contextlib.nullcontext("cpu") as chosen:
    write_pretrained(
        snakemake.output.network,
        out_of_file_names(snakemake.wildcards.architecture),
        snakemake.input.get("weights"),
        read_calibration_images(images) if images else None,
        seed=snakemake.params.options["seed"],
        device=chosen,
    )
