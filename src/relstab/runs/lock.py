"""One run at a time per results folder, also if runs start on different machines that share the folder."""

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

# Seconds between two updates of the note's date, and seconds without an update after which a run on another machine has ended.
_INTERVAL = 20.0
_STALE = 90.0
# Errors of file systems without file locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class FolderInUseError(RuntimeError):
    """Another run is writing to the folder."""


class RunLock:
    """Holds a results folder until :meth:`release`, or until the process ends, also if it is killed.

    A file lock excludes other runs on this machine, and on other machines if the file system shares its locks. Some file systems
    have no locks or keep them on each machine. The locked file therefore holds a note with the host and process of the run, and
    the run updates the date of the note every 20 s. The note of a run that was killed on another machine expires after 90 s.

    flufl.lock, which locks by hard links that expire, was tried in its place. It compares the date of a lock with the clock of
    each machine: beside a live run on a machine whose clock is behind, a second one starts. It waits for a run that was killed on
    this machine, for a day if a lock is dated a day ahead, and it needs hard links.

    Args:
        folder: results folder; made if it does not exist.
        planned: time of planning, seconds since 1970; the plan lacks all that another run has made since.

    Raises:
        FolderInUseError: another run holds the folder, or held it since ``planned``.
    """

    def __init__(self, folder: str | Path, planned: float = math.inf) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / ".lock"
        self.note = {"host": socket.gethostname(), "pid": os.getpid(), "run": uuid.uuid4().hex, "since": time.strftime("%F %T")}
        age = self._age() if self.path.exists() else math.inf
        self._file = self.path.open("a+")
        try:
            locked = self._lock()
            other = self._read()
            if other and age < _STALE and not self._has_ended(other, locked):
                raise FolderInUseError(self._in_use(other))
            if age < time.time() - planned:
                raise FolderInUseError(f"another run wrote to {self.folder} while this run was being planned: start it again")
            self._write()
            if not locked:
                # Of two runs that start at the same moment, the run whose note is written last continues.
                time.sleep(1)
                other = self._read()
                if other.get("run") != self.note["run"]:
                    raise FolderInUseError(self._in_use(other))
        except BaseException:
            self._file.close()
            raise
        self._ended = threading.Event()
        threading.Thread(target=self._update, name="run lock", daemon=True).start()
        atexit.register(self.release)

    def release(self) -> None:
        """Let other runs have the folder."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._read().get("run") == self.note["run"]:
            os.truncate(self.path, 0)
        self._file.close()
        atexit.unregister(self.release)

    def _age(self) -> float:
        """Seconds between the note's date and now, by the clock of the file server; a note that is dated ahead expires too."""
        now = self.folder / f".now-{self.note['run']}"
        now.touch()
        try:
            return abs(now.stat().st_mtime - self.path.stat().st_mtime)
        finally:
            now.unlink()

    def _lock(self) -> bool:
        """Take the file lock; False if the file system has none."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(self._in_use(self._read())) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _has_ended(self, other: dict[str, Any], locked: bool) -> bool:
        """Whether a run on this machine has ended: it has if this run got its file lock, or if its process is gone."""
        return other.get("host") == self.note["host"] and (locked or not psutil.pid_exists(int(other.get("pid", -1))))

    def _read(self) -> dict[str, Any]:
        try:
            note = json.loads(self.path.read_text() or "{}")
        except (OSError, ValueError):  # another process is writing it
            return {}
        return note if isinstance(note, dict) else {}

    def _write(self) -> None:
        # In place, because a new file would have a new lock; and in one step, because others read it.
        text = json.dumps(self.note).encode()
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
        finally:
            os.close(descriptor)

    def _update(self) -> None:
        while not self._ended.wait(_INTERVAL):
            try:
                os.utime(self.path)
            except OSError:  # the file server does not answer; try again later
                continue

    def _in_use(self, other: dict[str, Any]) -> str:
        who = f" (process {other['pid']} on {other['host']}, since {other['since']})" if other.keys() >= self.note.keys() else ""
        return (
            f"another run is writing to {self.folder}{who}: wait for it to end, or give this run another folder "
            f"(config.yaml: results)"
        )
