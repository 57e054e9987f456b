"""Files that are whole or absent, and that say what made them."""

import contextlib
import functools
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import psutil

import relstab

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["git_commit", "open_hdf5", "provenance", "whole_file", "write_hdf5", "write_table"]

# Beside this file, where a run keeps a copy of the package outside a checkout: the commit that it is a copy of.
COMMIT_FILE = "COMMIT"


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Path of a temporary file beside ``path``, which takes its place when the block ends well and is removed otherwise.

    A reader of ``path`` sees a whole file or none, also when the writer is killed. What a killed writer of this machine left
    behind is removed by the next one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Host and process are in the name, so that what a killed writer left can be told from what a live one is writing.
    mark = f".{path.stem}.partial-{socket.gethostname()}-"
    for left_over in path.parent.glob(f"{mark}*{path.suffix}"):
        if not psutil.pid_exists(int(left_over.name.removeprefix(mark).split("-")[0])):
            left_over.unlink(missing_ok=True)
    temporary = path.with_name(f"{mark}{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        # The bytes must be on disk before the name is, or a power cut can leave an empty file under it.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@functools.lru_cache
def git_commit() -> str:
    """Commit of the checkout that this package runs from, with -dirty where its code was edited; "unknown" elsewhere."""
    here = Path(__file__).parents[1]
    if (kept := here / COMMIT_FILE).exists():
        return kept.read_text()
    git = ["git", "-C", str(here)]
    try:
        prefix = subprocess.run([*git, "rev-parse", "--show-prefix"], capture_output=True, text=True, check=True)
        if prefix.stdout.strip() != "src/relstab/":  # installed inside another project's checkout
            return "unknown"
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        # Configs are no code: what they say is kept beside the commit, and where a cluster has its partitions is no matter.
        code = [str(here.parents[1] / part) for part in ("src", "workflow", "Snakefile")]
        command = [*git, "status", "--porcelain", "--untracked-files=no", "--", *code]
        edited = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        return f"{commit}-dirty" if edited else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(parameters: Mapping[str, Any], seed: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Attributes that every file carries: what made it, with which versions, where, from which seed.

    Args:
        parameters: all that the content depends on; kept as JSON.
        seed: of the generators, if any.
        device: where it was computed.
    """
    # Looked up, not imported: a table or a figure is drawn without torch, and asking for its version would cost its import.
    return {
        "parameters": json.dumps(parameters, sort_keys=True),
        "relstab_version": relstab.__version__,
        "git_commit": git_commit(),
        "torch_version": importlib.metadata.version("torch"),
        "python_version": sys.version.split()[0],
        "device": device,
        **({} if seed is None else {"seed": seed}),
    }


@contextlib.contextmanager
def write_hdf5(path: str | Path, attributes: Mapping[str, Any]) -> Iterator[h5py.File]:
    """New HDF5 file at ``path`` with these attributes, whole or absent; see :func:`whole_file`."""
    with whole_file(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        file.attrs.update(attributes)
        yield file


@contextlib.contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """HDF5 file opened to read, with one clear sentence where that fails.

    Without HDF5's file locks, here and everywhere: files are whole before they have their names, and some network file systems
    refuse to lock.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist: run the stage that makes it first")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise OSError(f"{path} is not a readable HDF5 file ({error}): delete it and run again") from error
    with file:
        yield file


def write_table(path: str | Path, table: "pd.DataFrame") -> None:
    """Table as CSV, every float with all its digits, whole or absent."""
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False)
