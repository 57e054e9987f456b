"""One run at a time on a folder of results, also where runs are started on machines that share it."""

import atexit
import errno
import fcntl
import json
import math
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

__all__ = ["FolderInUseError", "RunLock"]

# Seconds between two signs of life, and without one after which a run on another machine counts as ended.
_BEAT = 20.0
_STALE = 90.0
# What a file system without file locks answers.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class FolderInUseError(RuntimeError):
    """Another run is writing to the folder."""


class RunLock:
    """Holds a folder for the run of this process, until :meth:`release` or the end of the process, however it ends.

    A file lock tells runs of one machine from each other, and of several machines where the file system passes locks on. Some do
    not, or keep them on each machine: a note with a sign of life every 20 s, in the file that is locked, tells of the run there.
    What a killed run on another machine has left is believed for 90 s.

    Args:
        folder: of the results; it is made.
        planned: when this run was planned, seconds since 1970: what another run has made since is not in the plan.

    Raises:
        FolderInUseError: another run holds the folder, or did while this one was planned.
    """

    def __init__(self, folder: str | Path, planned: float = math.inf) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / ".lock"
        before = self.path.stat().st_mtime if self.path.exists() else 0
        self.note = {"host": socket.gethostname(), "pid": os.getpid(), "run": uuid.uuid4().hex, "since": time.strftime("%F %T")}
        self._file = self.path.open("a+")
        try:
            locked = self._lock()
            other = self._read()
            if other and self._alive(other, locked):
                raise FolderInUseError(self._described(other))
            if before > planned:
                raise FolderInUseError(f"another run wrote to {self.folder} while this one was being planned: start it again")
            self._write()
            if not locked:
                # Two that start at the same moment both write; the one whose note stays is the one that runs.
                time.sleep(1)
                other = self._read()
                if other.get("run") != self.note["run"]:
                    raise FolderInUseError(self._described(other))
        except BaseException:
            self._file.close()
            raise
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="sign of life", daemon=True).start()
        atexit.register(self.release)

    def release(self) -> None:
        """Leave the folder to others."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._read().get("run") == self.note["run"]:
            os.truncate(self.path, 0)
        self._file.close()
        atexit.unregister(self.release)

    def _lock(self) -> bool:
        """Whether there are file locks here; this process then has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(self._described(self._read())) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _read(self) -> dict[str, Any]:
        try:
            note = json.loads(self.path.read_text() or "{}")
        except (OSError, ValueError):  # it is being written
            return {}
        return note if isinstance(note, dict) else {}

    def _write(self) -> None:
        # In place: another name would be another file, whose lock is another lock. And at once, for others read it.
        text = json.dumps(self.note).encode()
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
        finally:
            os.close(descriptor)

    def _alive(self, other: dict[str, Any], locked: bool) -> bool:
        """Whether the run of a note goes on, as far as can be told from here."""
        if other.get("host") == self.note["host"] and (locked or not psutil.pid_exists(int(other.get("pid", -1)))):
            return False  # on one machine a lock that was to be had means that nobody had it
        # Both times are those of the file server: clocks of machines differ.
        now = self.folder / f".now-{self.note['run']}"
        now.touch()
        try:
            return now.stat().st_mtime - self.path.stat().st_mtime < _STALE
        finally:
            now.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            try:
                os.utime(self.path)
            except OSError:  # a file server that is away for a while
                continue

    def _described(self, other: dict[str, Any]) -> str:
        who = f" (process {other['pid']} on {other['host']}, since {other['since']})" if other.keys() >= self.note.keys() else ""
        return (
            f"another run is writing to {self.folder}{who}: wait for it to end, or give this one another folder "
            f"(config.yaml: results)"
        )
