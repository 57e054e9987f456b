"""Atomic files that carry their provenance and a digest of all their bytes.

A file is an HDF5 file behind a user block, which every HDF5 library skips. The block is text::

    relstab 1 SIZE HEAD BODY
    {"kind": ..., "attributes": {...}, "plan": {...}}

SIZE is the size of the block, a power of two; HEAD is the SHA-256 of its lines after the first; BODY is the SHA-256 of all bytes
after the block. Both are checked before HDF5 sees the file, and the attributes are read from the block alone.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import psutil

import relstab
from relstab.runs.orphan import RunEndedError, run_has_ended

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FileError",
    "atomic_path",
    "code_version",
    "file_digest",
    "git_commit",
    "open_hdf5",
    "planned_as",
    "provenance",
    "read_attributes",
    "read_kind",
    "read_plan",
    "write_hdf5",
    "write_table",
]

COMMIT_FILE = "COMMIT"
"""File at the top of the package in which a copy outside a checkout keeps the commit that it was copied from."""

_MAGIC = "relstab"
_SCHEMA = 1
_FIRST_LINE = re.compile(rb"relstab (\d{1,4}) (\d{3,10}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")
_LARGEST_BLOCK = 1 << 24
_LARGEST_ATTRIBUTE = 60_000


class FileError(OSError):
    """A file is damaged, or is not what was expected; the message names it and says what to do."""


@contextlib.contextmanager
def atomic_path(path: str | Path, only_in_run: bool = True) -> Iterator[Path]:
    """Path of a temporary file beside ``path``, which replaces ``path`` when the block succeeds and is removed otherwise.

    A reader of ``path`` sees a complete file or none, also when the writer is killed. The next writer on the same machine removes
    the temporary file of a killed one.

    Args:
        path: of the file.
        only_in_run: whether nothing is published once the run of this job has ended; the next run may have another config.

    Raises:
        RunEndedError: the run has ended.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name holds host and process, which distinguishes the file of a killed writer from that of a live one.
    prefix = f".{path.stem}.partial-{socket.gethostname()}-"
    own = re.compile(rf"{re.escape(prefix)}(\d+)-[0-9a-f]{{8}}{re.escape(path.suffix)}")
    for leftover in path.parent.iterdir():
        if (match := own.fullmatch(leftover.name)) and not psutil.pid_exists(int(match[1])):
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        # The bytes must be on disk before the name is, or a power cut can leave an empty file under it.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if only_in_run and run_has_ended():
            raise RunEndedError(f"{path} is not written, since the run that planned it has ended: run again")
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


@functools.lru_cache
def code_version() -> str:
    """Version, and digest of the code that makes numbers: tables, figures and pages are made from these.

    A commit that leaves this code unchanged is the same version, and each edit of uncommitted code is another version.
    """
    package = Path(__file__).parents[1]
    made_later = {package / room for room in ("cli", "figures", "report", "tables")}
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if made_later.isdisjoint(path.parents):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{relstab.__version__} ({digest.hexdigest()[:12]})"


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
        "code": code_version(),
        # Read from the metadata, because tables and figures are made without importing torch.
        "torch_version": importlib.metadata.version("torch"),
        "python_version": sys.version.split()[0],
        "device": device,
        **({} if seed is None else {"seed": seed}),
    }


_plan: dict[str, Any] = {}


@contextlib.contextmanager
def planned_as(plan: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, files carry this plan: the rule, the name and all that a run planned to make them from."""
    before = dict(_plan)
    _plan.clear()
    _plan.update(plan)
    try:
        yield
    finally:
        _plan.clear()
        _plan.update(before)


class _Disk(io.FileIO):
    """The file below HDF5, behind its user block. HDF5 crashes if a write raises an error; writes here never raise one.

    A write that fails is remembered, and all writes after it are dropped; the file is given up once HDF5 has closed it.
    """

    def __init__(self, path: Path, block: int) -> None:
        super().__init__(path, "w+")
        super().truncate(block)
        self._block = block
        self.failed: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(offset + self._block if whence == os.SEEK_SET else offset, whence) - self._block

    def tell(self) -> int:
        return super().tell() - self._block

    def truncate(self, size: int | None = None) -> int:
        try:
            return size or 0 if self.failed else super().truncate(None if size is None else size + self._block)
        except OSError as error:
            self.failed = error
            return size or 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view) and not self.failed:
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.failed = error
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        read = 0
        while read < len(view) and (more := super().readinto(view[read:])):
            read += more
        view[read:] = bytes(len(view) - read)
        return len(view)


def _plain(value: Any) -> Any:
    """Value for JSON: arrays and scalars of numpy become lists, numbers and text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"expected attributes of numbers, text and lists, got {type(value).__name__}")


@contextlib.contextmanager
def write_hdf5(path: str | Path, attributes: Mapping[str, Any], kind: str = "", only_in_run: bool = True) -> Iterator[h5py.File]:
    """New HDF5 file with these attributes and a digest of its bytes, written atomically; see :func:`atomic_path`.

    Args:
        path: of the file.
        attributes: of the file, numbers, text and lists of these.
        kind: of the file, "network" for instance; :func:`open_hdf5` checks it.
        only_in_run: as in :func:`atomic_path`.

    Raises:
        OSError: it cannot be written, for instance for lack of space; an older file stays as it was.
    """
    head = json.dumps({"kind": kind, "attributes": attributes, "plan": _plan}, default=_plain).encode()
    block = 512
    while block < len(head) + 200:
        block *= 2
    with atomic_path(path, only_in_run) as temporary:
        try:
            with _Disk(temporary, block) as disk:
                try:
                    with h5py.File(disk, "w") as file:
                        # HDF5's own attributes take 64 KB; names of thousands of tensors are in the user block alone.
                        file.attrs.update(
                            {name: value for name, value in attributes.items() if len(str(value)) < _LARGEST_ATTRIBUTE}
                        )
                        yield file
                except Exception:
                    if disk.failed:
                        raise disk.failed from None
                    raise
                if disk.failed:
                    raise disk.failed
            with temporary.open("r+b") as raw:
                raw.seek(block)
                body = hashlib.file_digest(raw, "sha256").hexdigest()
                first = f"{_MAGIC} {_SCHEMA} {block} {'0' * 64} {body}\n"
                head = head.ljust(block - len(first) - 1) + b"\n"
                raw.seek(0)
                raw.write(first.replace("0" * 64, hashlib.sha256(head).hexdigest()).encode() + head)
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, f"{path} cannot be written ({error.strerror}): make room, or mend the disk") from error


def _bad(path: str | Path, what: str) -> FileError:
    return FileError(f"{path} {what}: delete it and run again")


def _open(path: str | Path) -> io.BufferedReader:
    """Open a regular file. A pipe is refused: opening one would wait for its other end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: run the stage that makes it first") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _bad(path, "is not a readable HDF5 file (it is no regular file)")
    return open(descriptor, "rb")


def _read_head(path: str | Path, raw: io.BufferedReader) -> tuple[dict[str, Any], int, str]:
    """Content of the user block, checked; its size; and the digest of the bytes after it."""
    first = raw.readline(256)
    match = _FIRST_LINE.fullmatch(first)
    if match is None:
        if first == b"":
            raise _bad(path, "is not a readable HDF5 file (it is empty)")
        raise _bad(
            path, "is not a readable HDF5 file of relstab (no digest at its head: damaged, foreign, or of a version before)"
        )
    schema, block = int(match[1]), int(match[2])
    if schema != _SCHEMA or not len(first) < block <= _LARGEST_BLOCK:
        raise _bad(path, f"is not a readable HDF5 file of this version (expected schema {_SCHEMA}, got {schema})")
    head = raw.read(block - len(first))
    if hashlib.sha256(head).hexdigest() != match[3].decode():
        raise _bad(path, "is damaged (its head is not what was written)")
    return json.loads(head), block, match[4].decode()


def _head(path: str | Path) -> dict[str, Any]:
    """Content of the user block of a file; the digest of the bytes after it is not checked."""
    with _open(path) as raw:
        return _read_head(path, raw)[0]


def _check_kind(path: str | Path, head: Mapping[str, Any], kind: str) -> None:
    """Refuse a file of another kind; a file of no kind passes."""
    if kind and head["kind"] not in (kind, ""):
        raise _bad(path, f"is not what was expected (expected a file of the kind {kind!r}, got {head['kind']!r})")


_checked: dict[str, tuple[Any, ...]] = {}


def _checked_head(path: str | Path) -> dict[str, Any]:
    """Content of the user block of a file, after a check that all bytes of the file are as they were written."""
    with _open(path) as raw:
        status = os.fstat(raw.fileno())
        head, block, expected = _read_head(path, raw)
        version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, expected)
        # A job opens its files several times.
        if _checked.get(str(path)) != version:
            raw.seek(block)
            if hashlib.file_digest(raw, "sha256").hexdigest() != expected:
                raise _bad(path, f"is damaged (its {status.st_size:,} bytes are not those that were written)")
            _checked[str(path)] = version
        return head


def _check_links(path: str | Path, file: h5py.File) -> None:
    """Refuse links to data outside of the file."""

    def outside(name: bytes, info: Any) -> str | None:
        if info.type not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
            return name.decode(errors="replace")
        item = file.get(name) if info.type == h5py.h5l.TYPE_HARD else None
        if isinstance(item, h5py.Dataset):
            made = item.id.get_create_plist()
            if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
                return name.decode(errors="replace")
        return None

    if name := file.id.links.visit(outside, info=True):
        raise _bad(path, f"keeps {name} in another file")


@contextlib.contextmanager
def open_hdf5(path: str | Path, kind: str = "") -> Iterator[h5py.File]:
    """HDF5 file opened for reading, once its digest was checked.

    HDF5's file locks are off, here and everywhere: files are complete before they get their names, and some network file systems
    refuse to lock.

    Args:
        path: of the file.
        kind: of file that is expected; empty for any. A file of no kind passes.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: the file is damaged, is of another kind, or lacks a part.
    """
    _check_kind(path, _checked_head(path), kind)
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise _bad(path, f"is not a readable HDF5 file ({error})") from error
    with file:
        _check_links(path, file)
        try:
            yield file
        except KeyError as error:
            if re.search("Unable to|Can't open", str(error)):  # HDF5's words
                raise _bad(path, f"lacks a part that was expected ({error.args[0]})") from error
            raise


def read_attributes(path: str | Path, kind: str = "") -> dict[str, Any]:
    """Attributes of an HDF5 file by name, from its user block alone."""
    head = _head(path)
    _check_kind(path, head, kind)
    attributes: dict[str, Any] = head["attributes"]
    return attributes


def read_kind(path: str | Path) -> str:
    """Kind of an HDF5 file, see :func:`write_hdf5`."""
    return str(_head(path)["kind"])


def read_plan(path: str | Path) -> dict[str, Any]:
    """Plan of a file, see :func:`planned_as`; empty for a file that no run made."""
    plan: dict[str, Any] = _head(path)["plan"]
    return plan


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    with _open(path) as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def write_table(path: str | Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, atomically and with all digits of every float."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
