# How deep convolutional networks lose spatial information: from images to figures.
# Data flow: config -> dataset -> networks -> (probes -> sensitivity), spectra -> tables -> figures, claims -> report; beside it the
# scale-detection tasks, which need no data set: networks -> sensitivity -> the same tables, figures, claims. And networks of torchvision
# and timm on ImageNet: published weights -> networks, a folder of images -> probes, then as above.

from snakemake.utils import min_version

min_version("9.11")


configfile: f"{workflow.basedir}/config.yaml"


# With --software-deployment-method apptainer: the image that `docker build --tag relstab .` makes (Dockerfile).
container: "docker-daemon://relstab:latest"


include: "workflow/rules/run.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/networks.smk"
include: "workflow/rules/scale_detection.smk"
include: "workflow/rules/imagenet.smk"
include: "workflow/rules/sensitivity.smk"
include: "workflow/rules/spectra.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        FIGURE_FILES,
        TABLE_FILES,
        table("claims"),


rule all_figures:
    input:
        FIGURE_FILES,


rule all_tables:
    input:
        TABLE_FILES,


rule claims:
    input:
        table("claims"),


rule report:
    input:
        f"{RESULTS}/report.html",
