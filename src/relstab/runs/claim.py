"""Claims: of several processes of this machine, one does each piece of work."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["claim"]


@contextlib.contextmanager
def claim(own: str, others: Callable[[], Sequence[str]], count: int) -> Iterator[list[str]]:
    """Claim a file to be made and some others, until the block ends. The operating system ends the claims of killed processes.

    Args:
        own: the file without which the others are not claimed.
        others: further files, in the order of preference.
        count: files at most.

    Yields:
        The files that are claimed; none if another process has claimed ``own``.
    """
    folder = Path(tempfile.gettempdir()) / f"relstab-claims-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    # Locks are taken and removed within this one: two processes neither share out the same files, nor lock a removed file.
    choosing = FileLock(folder / "choosing.lock")
    locks: dict[str, FileLock] = {}
    with choosing:
        for file in (own, *others()):
            lock = FileLock(folder / f"{hashlib.sha256(os.path.abspath(file).encode()).hexdigest()[:32]}.lock")
            with contextlib.suppress(Timeout):
                lock.acquire(blocking=False)
                locks[file] = lock
            if own not in locks or len(locks) == count:
                break
    try:
        yield list(locks)
    finally:
        with choosing:
            for lock in locks.values():
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()
