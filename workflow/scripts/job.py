"""What every script does around its work: its output goes to the log, its errors to the terminal as well, its time is noted."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from relstab.architectures import own_architectures


@contextlib.contextmanager
def device(snakemake: Any) -> Iterator[str]:
    """Name of the device for a job that runs a network: of several GPUs one on which there is a place, held until the block ends.

    A job that asked for no GPU takes none, whatever its node has. The threads are those of the config, whatever the number of
    cores: on a CPU the order of sums depends on them.
    """
    import torch

    from relstab.devices import occupied_device, repeatable

    torch.set_num_threads(snakemake.config["threads"])
    name = snakemake.config["device"] if snakemake.resources.get("gpu", 0) else "cpu"
    given = os.getenv("CUDA_VISIBLE_DEVICES")
    if name == "auto" and given and not torch.cuda.is_available():
        print(f"a GPU was given (CUDA_VISIBLE_DEVICES={given}), torch {torch.__version__} finds none: this runs on the CPU")
    with occupied_device(name, snakemake.config["jobs_per_gpu"]) as place, repeatable(place):
        yield str(place)


@contextlib.contextmanager
def job(snakemake: Any) -> Iterator[Callable[[str], None]]:
    """Run the block with all it prints in the rule's log, whose last line is how long the work took, imports not counted.

    The block gets a function that says something on the terminal as well. An error ends the job: one sentence on the terminal,
    the traceback in the log.
    """
    wildcards = ", ".join(f"{key} {value}" for key, value in snakemake.wildcards.items() if value)
    place = f"{snakemake.rule} ({wildcards})" if wildcards else snakemake.rule
    terminal = sys.stderr
    own_architectures(snakemake.config["own_architectures"])
    path = Path(snakemake.log[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    # Names of files need not be text.
    with path.open("w", buffering=1, encoding="utf-8", errors="backslashreplace") as log:
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield lambda text: print(f"relstab: {place}: {text}", file=terminal)
        except Exception as error:
            traceback.print_exc(file=log)
            print(f"relstab: {place}: {error}", file=terminal)
            sys.exit(1)
        print(f"work: {time.perf_counter() - start:.3f} s", file=log)
