"""What every script does around its work: output goes to the log, errors also to the terminal, the duration is logged."""

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from relstab.architectures import own_architectures
from relstab.files.hdf5 import planned_as
from relstab.files.plan import check_input, give_time_of_inputs, plan_of, record
from relstab.runs.orphan import ends_with_run


@contextlib.contextmanager
def _as_planned(snakemake: Any) -> Iterator[None]:
    """Check what the inputs are; outputs say what the run planned to make them from, and end with the run."""
    results = snakemake.config["results"]
    for file in snakemake.input:
        check_input(file, results)
    options = snakemake.params.get("options", {})
    plans = {file: plan_of(snakemake.rule, snakemake.wildcards, options, file, results) for file in snakemake.output}
    with ends_with_run(), planned_as(plans[snakemake.output[0]]):
        yield
    for file, plan in plans.items():
        if not file.endswith(".h5"):
            record(file, results, plan)
    give_time_of_inputs(snakemake.output, snakemake.input)


@contextlib.contextmanager
def device(snakemake: Any) -> Iterator[str]:
    """Name of the device for a job that runs a network; of several GPUs one with a free slot, held until the block ends.

    A job that asked for no GPU (resource gpu, or SLURM's gres) runs on the CPU, whatever its node has; one that asked for a GPU
    which torch cannot use stops, unless the config says cpu. The number of threads is
    that of the config, whatever the number of cores, because the order of sums on a CPU depends on it.
    """
    import torch

    from relstab.runs.devices import occupied_device, repeatable

    torch.set_num_threads(snakemake.config["threads"])
    gres = str(snakemake.resources.get("gres", "")).partition(":")[0]
    name = snakemake.config["device"] if snakemake.resources.get("gpu", 0) or gres in ("gpu", "shard") else "cpu"
    with occupied_device(name, snakemake.config["jobs_per_gpu"]) as chosen, repeatable(chosen):
        yield str(chosen)


@contextlib.contextmanager
def job(snakemake: Any) -> Iterator[Callable[[str], None]]:
    """Write the output of the block to the rule's log, whose last line is the duration of the work without imports.

    The block gets a function that reports a sentence on the terminal. An error ends the job: one sentence on the terminal,
    the traceback in the log.
    """
    wildcards = ", ".join(f"{key} {value}" for key, value in snakemake.wildcards.items() if value)
    name = f"{snakemake.rule} ({wildcards})" if wildcards else snakemake.rule
    terminal = sys.stderr
    own_architectures(snakemake.config["own_architectures"])
    path = Path(snakemake.log[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    # Names of files need not be valid text.
    with path.open("w", buffering=1, encoding="utf-8", errors="backslashreplace") as log:
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), _as_planned(snakemake):
                yield lambda text: print(f"relstab: {name}: {text}", file=terminal)
        except Exception as error:
            traceback.print_exc(file=log)
            print(f"relstab: {name}: {error}", file=terminal)
            sys.exit(1)
        print(f"work: {time.perf_counter() - start:.3f} s", file=log)
