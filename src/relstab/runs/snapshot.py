"""What a run's jobs do is what was asked for when it began: its code and config, kept in a folder from which the jobs start."""

import json
import math
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from relstab.architectures.user_code import source_digest
from relstab.files.hdf5 import COMMIT_FILE, git_commit

__all__ = ["EditedError", "changed_code", "discard_frozen", "freeze", "left_over_jobs"]

_PREFIX = ".run-"
_OWN_CODE = "own_code.json"
_JOB_NAME = "job_name"


class EditedError(RuntimeError):
    """What is to be frozen is no longer what was planned."""


def freeze(
    checkout: str | Path,
    folder: str | Path,
    config: Mapping[str, Any],
    own_code: Sequence[str] = (),
    job_name: str = "",
    planned: float = math.inf,
) -> Path:
    """Copy what the jobs of a run need, so that it can be edited meanwhile.

    A job in a queue starts Snakemake once more, which reads the workflow and the config anew: edited in the meantime, it would
    train another network under the old one's name.

    Args:
        checkout: of this project.
        folder: of the results, in which the copy is made.
        config: as it is, all files of it together.
        own_code: references ``path/to/file.py:function`` of the config. The files are not copied, since they may import others
            beside them; :func:`changed_code` tells whether they are as they were.
        job_name: of all jobs of this run on the cluster, by which :func:`left_over_jobs` finds them.
        planned: when the run was planned, seconds since 1970.

    Returns:
        The Snakefile of the copy; beside it is config.yaml.

    Raises:
        EditedError: a file was edited after the run was planned.
    """
    checkout, target = Path(checkout), Path(folder) / f"{_PREFIX}{uuid.uuid4().hex[:12]}"
    partial = target.with_name(f"{target.name}.partial")
    no_caches = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in ("workflow", "src", "envs"):
        shutil.copytree(checkout / part, partial / part, ignore=no_caches)
    shutil.copy2(checkout / "Snakefile", partial)
    for file in partial.rglob("*"):
        if file.is_file() and file.stat().st_mtime > planned:
            shutil.rmtree(partial)
            raise EditedError(
                f"{checkout / file.relative_to(partial)} was edited while the run was being planned: start it again"
            )
    (partial / "src" / "relstab" / COMMIT_FILE).write_text(git_commit())
    (partial / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    (partial / _OWN_CODE).write_text(json.dumps({reference: source_digest(reference) for reference in own_code}))
    (partial / _JOB_NAME).write_text(job_name)
    partial.rename(target)
    return target / "Snakefile"


def changed_code(basedir: str | Path) -> list[str]:
    """References to code that is no longer what it was when a run froze; none outside a frozen run."""
    path = Path(basedir) / _OWN_CODE
    if not path.exists():
        return []
    return [reference for reference, digest in json.loads(path.read_text()).items() if source_digest(reference) != digest]


def left_over_jobs(folder: str | Path) -> list[str]:
    """Names under which runs that were killed may still have jobs on the cluster."""
    names = [path.read_text() for path in Path(folder).glob(f"{_PREFIX}*/{_JOB_NAME}")]
    return [name for name in names if name]


def discard_frozen(folder: str | Path) -> None:
    """Remove the copies under a folder of results; jobs of a killed run that still wait then find nothing to start from."""
    for left in Path(folder).glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
