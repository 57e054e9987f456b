"""Snapshot of code and config, made when a run begins: jobs on a cluster start from it, whatever is edited meanwhile."""

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

__all__ = ["EditedError", "changed_user_code", "discard_snapshots", "left_over_runs", "run_snapshot"]

_PREFIX = ".run-"
_USER_CODE = "user_code.json"
_RUN = "run"


class EditedError(RuntimeError):
    """Code was edited after the run was planned."""


def run_snapshot(
    checkout: str | Path,
    folder: str | Path,
    config: Mapping[str, Any],
    user_code: Sequence[str] = (),
    run: str = "",
    planned: float = math.inf,
) -> Path:
    """Copy the code and the config that the jobs of a run need, so that both can be edited while the jobs wait.

    A job on a cluster starts Snakemake, which reads the workflow and the config. If these were edited in the meantime, the job
    would train another network under the name of the planned one.

    Args:
        checkout: folder of this project.
        folder: results folder, in which the snapshot is made.
        config: the config, all its files merged.
        user_code: references ``path/to/file.py:function`` in the config. User code is not copied, because it may import files
            beside it; :func:`changed_user_code` tells whether it has changed.
        run: identifier of the run, the comment of its jobs on the cluster, for :func:`left_over_runs`.
        planned: time of planning, seconds since 1970.

    Returns:
        The Snakefile of the snapshot; config.yaml is beside it.

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
    (partial / _USER_CODE).write_text(json.dumps({reference: source_digest(reference) for reference in user_code}))
    (partial / _RUN).write_text(run)
    partial.rename(target)
    return target / "Snakefile"


def changed_user_code(basedir: str | Path) -> list[str]:
    """References to user code that has changed since the snapshot ``basedir`` was made; empty if ``basedir`` is no snapshot."""
    path = Path(basedir) / _USER_CODE
    if not path.exists():
        return []
    return [reference for reference, digest in json.loads(path.read_text()).items() if source_digest(reference) != digest]


def left_over_runs(folder: str | Path) -> list[str]:
    """Identifiers of runs that were killed and may still have jobs on the cluster."""
    runs = [path.read_text() for path in Path(folder).glob(f"{_PREFIX}*/{_RUN}")]
    return [run for run in runs if run]


def discard_snapshots(folder: str | Path) -> None:
    """Remove the snapshots in a results folder; waiting jobs of a killed run then fail at their start."""
    for path in Path(folder).glob(f"{_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
