# relstab with its pipeline, in the tested versions:
#   docker build --tag relstab .                            for CPUs
#   docker build --tag relstab --build-arg DEVICE=cuda .    for NVIDIA GPUs
#   docker run --rm --volume "$PWD/results:/relstab/results" relstab snakemake --cores 8
# With GPUs: docker run --gpus all ... The workflow names this image (container: in Snakefile) for clusters with Apptainer.
FROM python:3.11-slim

ARG DEVICE=cpu

WORKDIR /relstab
COPY pyproject.toml constraints.txt README.md LICENSE MANIFEST.in ./
COPY src src
# The wheels of torch on PyPI have CUDA; those for CPUs are gigabytes smaller. Everything else comes from PyPI: the other index has not
# all versions of constraints.txt.
RUN case "$DEVICE" in \
      cpu) set -- --extra-index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) set -- ;; \
      *) echo "expected DEVICE to be cpu or cuda, got $DEVICE" >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir --constraint constraints.txt "$@" --editable ".[pipeline]"
COPY . .

CMD ["snakemake", "--cores", "all"]
