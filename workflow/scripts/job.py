"""The frame of every script: output goes to the log, errors also to the terminal, the duration is logged."""

import contextlib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from relstab.architectures import own_architectures
from relstab.files.checkpoints import discard_saved
from relstab.files.hdf5 import planned_as
from relstab.files.plan import check_input, give_time_of_inputs, plan_of, record
from relstab.runs.orphan import ends_with_run


def plan_for(snakemake: Any, file: str) -> dict[str, Any]:
    """Plan of an output of this job."""
    rule = snakemake.rule.removesuffix("_together")  # which makes the same files
    return plan_of(rule, snakemake.wildcards, snakemake.params.get("options", {}), file, snakemake.config["results"])


@contextlib.contextmanager
def _as_planned(snakemake: Any) -> Iterator[None]:
    """Check the inputs, write the plan into the outputs, and end the job if its run ends."""
    results = snakemake.config["results"]
    for file in snakemake.input:
        check_input(file, results)
        discard_saved(file)  # the job that made it has succeeded, since its file is read
    plans = {file: plan_for(snakemake, file) for file in snakemake.output}
    with ends_with_run(), planned_as(plans[snakemake.output[0]]):
        yield
    for file, plan in plans.items():
        if not file.endswith(".h5"):
            record(file, results, plan)
    give_time_of_inputs(snakemake.output, snakemake.input)


def _device_name(snakemake: Any) -> str:
    """Name of the device as the config has it, or cpu for a job that asked for no GPU (resource gpu, or SLURM's gres)."""
    gres = str(snakemake.resources.get("gres", "")).partition(":")[0]
    name: str = snakemake.config["device"] if snakemake.resources.get("gpu", 0) or gres in ("gpu", "shard") else "cpu"
    return name


@contextlib.contextmanager
def device(snakemake: Any) -> Iterator[str]:
    """Name of the device for a job that runs a network; of several GPUs one with a free slot, held until the block ends.

    A job that asked for no GPU (resource gpu, or SLURM's gres) runs on the CPU, whatever its node has. A job that asked for a GPU
    stops if torch cannot use it, unless the config says cpu. The number of threads is that of the config, whatever the number of
    cores, because the order of sums on a CPU depends on it.
    """
    import torch

    from relstab.runs.devices import occupied_device, repeatable

    torch.set_num_threads(snakemake.config["threads"])
    with occupied_device(_device_name(snakemake), snakemake.config["jobs_per_gpu"]) as chosen, repeatable(chosen):
        if chosen.type == "cuda":
            # What torch.compile makes (training.compile) serves all networks of an architecture. On a CPU it is made for one
            # processor, and torch keeps it on its machine.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(f"{snakemake.config['results']}/.compiled"))
        yield str(chosen)


def networks_per_job(snakemake: Any) -> int:
    """Networks that this job may train at the same time: on a CPU one, where several would take as long as one by one."""
    import torch

    shares = snakemake.rule == "train_together" and _device_name(snakemake) != "cpu" and torch.cuda.is_available()
    count: int = snakemake.config["networks_per_job"] if shares else 1
    return count


def _sentence(error: Exception, inputs: Iterable[str]) -> str:
    """The message of an error. For a missing column, Python's message is only its name, so the tables are named, too."""
    if isinstance(error, KeyError):
        files = ", ".join([file for file in inputs if str(file).endswith(".csv")][:3])
        return f"expected {error} in the tables of this run, got tables without it ({files}): delete them and run again"
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _warnings_on(report: Callable[[str], None]) -> Iterator[None]:
    """Report each warning of the library and of user code once, and log it; those of other packages are only logged."""
    reported = set()

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr, end="")
        if category is UserWarning and "site-packages" not in filename and str(message) not in reported:
            reported.add(str(message))
            report(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def job(snakemake: Any) -> Iterator[Callable[[str], None]]:
    """Write the output of the block to the rule's log, whose last line is the duration of the work without imports.

    The block gets a function that reports a sentence on the terminal; warnings are reported there, too. An error or Ctrl-C ends
    the job: one sentence on the terminal, the traceback in the log.
    """
    wildcards = ", ".join(f"{key} {value}" for key, value in snakemake.wildcards.items() if value)
    name = f"{snakemake.rule} ({wildcards})" if wildcards else snakemake.rule
    terminal = sys.stderr

    def report(text: str) -> None:
        print(f"relstab: {name}: {text}", file=terminal)

    own_architectures(snakemake.config["own_architectures"])
    path = Path(snakemake.log[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    # Names of files need not be valid text.
    with path.open("w", buffering=1, encoding="utf-8", errors="backslashreplace") as log:
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), _warnings_on(report), _as_planned(snakemake):
                yield report
        except KeyboardInterrupt:
            traceback.print_exc(file=log)
            report("stopped by Ctrl-C; the next run takes it up again")
            sys.exit(130)  # the status that shells give to Ctrl-C
        except Exception as error:
            traceback.print_exc(file=log)
            report(_sentence(error, snakemake.input))
            sys.exit(1)
        print(f"work: {time.perf_counter() - start:.3f} s", file=log)
