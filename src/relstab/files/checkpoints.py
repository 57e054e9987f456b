"""Folders of checkpoints beside the files of networks: removed once the network is saved and its job has succeeded.

A job that has saved its network can still fail, for instance when Snakemake deletes the file for its date. Its checkpoints are
then all that is left of the training. So the job only marks them. A job that reads the network removes them: Snakemake starts it
once the first has succeeded.
"""

import contextlib
import shutil
from pathlib import Path

__all__ = ["checkpoints_of", "discard_saved", "mark_saved"]

_MARK = "saved"


def checkpoints_of(path: str | Path) -> Path:
    """Folder of the checkpoints of a file, one folder in it per recipe."""
    return Path(path).with_suffix(".checkpoints")


def mark_saved(folder: Path | None) -> None:
    """Mark the checkpoints of one recipe, if there are any: their network is saved."""
    if folder is not None and folder.exists():
        with contextlib.suppress(OSError):  # without the mark they stay, which only costs disk space
            (folder / _MARK).touch()


def discard_saved(path: str | Path) -> None:
    """Remove the marked checkpoints of a file; those of other recipes stay."""
    folder = checkpoints_of(path)
    for mark in folder.glob(f"*/{_MARK}"):
        shutil.rmtree(mark.parent, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
