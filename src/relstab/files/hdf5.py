"""Atomic files that carry their provenance."""

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

__all__ = ["atomic_path", "git_commit", "open_hdf5", "provenance", "read_attributes", "write_hdf5", "write_table"]

COMMIT_FILE = "COMMIT"
"""File at the top of the package in which a copy outside a checkout keeps the commit that it was copied from."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Path of a temporary file beside ``path``, which replaces ``path`` when the block succeeds and is removed otherwise.

    A reader of ``path`` sees a complete file or none, also when the writer is killed. The next writer on the same machine removes
    the temporary file of a killed one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name holds host and process, which distinguishes the file of a killed writer from that of a live one.
    prefix = f".{path.stem}.partial-{socket.gethostname()}-"
    for leftover in path.parent.glob(f"{prefix}*{path.suffix}"):
        if not psutil.pid_exists(int(leftover.name.removeprefix(prefix).split("-")[0])):
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
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
    package = Path(__file__).parents[1]
    if (copied_from := package / COMMIT_FILE).exists():
        return copied_from.read_text()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix") != "src/relstab/":  # installed inside another project's checkout
            return "unknown"
        commit = git("rev-parse", "HEAD")
        # Configs are not code: their values are kept beside the commit, and a cluster's partitions change no result.
        code = [str(package.parents[1] / part) for part in ("src", "workflow", "Snakefile")]
        edited = git("status", "--porcelain", "--untracked-files=no", "--", *code)
        return f"{commit}-dirty" if edited else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(parameters: Mapping[str, Any], seed: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Attributes that every file carries: its parameters, versions, device and seed.

    Args:
        parameters: everything that the content depends on, stored as JSON.
        seed: of the random generators, if any.
        device: on which the content was computed.
    """
    return {
        "parameters": json.dumps(parameters, sort_keys=True),
        "relstab_version": relstab.__version__,
        "git_commit": git_commit(),
        # Read from the metadata, because tables and figures are made without importing torch.
        "torch_version": importlib.metadata.version("torch"),
        "python_version": sys.version.split()[0],
        "device": device,
        **({} if seed is None else {"seed": seed}),
    }


@contextlib.contextmanager
def write_hdf5(path: str | Path, attributes: Mapping[str, Any]) -> Iterator[h5py.File]:
    """New HDF5 file with these attributes, written atomically; see :func:`atomic_path`."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        file.attrs.update(attributes)
        yield file


@contextlib.contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """HDF5 file opened for reading.

    HDF5's file locks are off, here and everywhere: files are complete before they get their names, and some network file systems
    refuse to lock.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file is not a readable HDF5 file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist: run the stage that makes it first")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise OSError(f"{path} is not a readable HDF5 file ({error}): delete it and run again") from error
    with file:
        yield file


def read_attributes(path: str | Path) -> dict[str, Any]:
    """Attributes of an HDF5 file by name."""
    with open_hdf5(path) as file:
        return dict(file.attrs)


def write_table(path: str | Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, atomically and with all digits of every float."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
