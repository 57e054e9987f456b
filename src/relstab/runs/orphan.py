"""A job ends when its run ends, however that ends: jobs of a killed Snakemake would publish results under a later config."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["RunEndedError", "belong_to_this_process", "discard_scripts", "ends_with_run", "run_has_ended"]

_VARIABLE = "RELSTAB_RUN"
_LOOK_EVERY = 1.0
# Seconds that a job has to save a checkpoint.
_GRACE = 30.0
_DAY = 24 * 3600.0


class RunEndedError(RuntimeError):
    """The run that planned a file has ended."""


def belong_to_this_process(is_submitted: bool = False) -> None:
    """Make this process the run of all jobs that it starts, beside the runs that it belongs to itself.

    Args:
        is_submitted: whether a queue started this process, which then outlives the run that submitted it.
    """
    given = "" if is_submitted else os.getenv(_VARIABLE, "")
    own = f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time()}"
    runs = [run for run in given.split(",") if run and run != own]
    os.environ[_VARIABLE] = ",".join([*runs, own])


def _is_alive(run: str) -> bool:
    try:
        host, pid, born = run.rsplit(":", 2)
        if host != socket.gethostname():
            return True  # nobody can tell from here
        process = psutil.Process(int(pid))
        return bool(abs(process.create_time() - float(born)) < 1) and process.status() != psutil.STATUS_ZOMBIE
    except ValueError:
        return True
    except psutil.NoSuchProcess:
        return False


def run_has_ended() -> bool:
    """Whether a run that this process belongs to has ended; False outside of a run."""
    runs = os.getenv(_VARIABLE, "")
    return bool(runs) and not all(map(_is_alive, runs.split(",")))


def discard_scripts(folder: str | Path = ".snakemake/scripts") -> None:
    """Remove the scripts that killed jobs left behind a day ago or before; Snakemake removes those of jobs that end."""
    for script in Path(folder).glob("tmp*.py"):
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            if time.time() - script.stat().st_mtime > _DAY:
                script.unlink()


def _end(after: float) -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def ends_with_run(grace: float = _GRACE) -> Iterator[None]:
    """Within the block, the end of the run sends this process a SIGTERM, and ``grace`` seconds later a SIGKILL."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_EVERY):
            if run_has_ended():
                _end(grace)

    threading.Thread(target=watch, name="end of the run", daemon=True).start()
    try:
        yield
    finally:
        done.set()
