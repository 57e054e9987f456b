"""Plans of files, kept with the results, because Snakemake's own record may be lost, or the folder renamed.

A plan says what a run makes a file from: the rule, its wildcards and options, and the name of the file below the folder of
results. HDF5 files carry their plans. The plans of tables, figures and the report are in ``.made/`` of the results,
each with the digest of its file.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from relstab.files.hdf5 import FileError, atomic_path, file_digest, read_plan

__all__ = ["check_input", "differing", "give_time_of_inputs", "plan_of", "read_plan_of", "record"]

_RECORDS = ".made"


def _below(path: str | Path, results: str | Path) -> str | None:
    name = os.path.relpath(path, results)
    return None if name.startswith("..") else Path(name).as_posix()


def plan_of(rule: str, wildcards: Mapping[str, str], options: Any, file: str | Path, results: str | Path) -> dict[str, Any]:
    """Plan of a file, in the types of JSON."""
    plan = {"rule": rule, "wildcards": dict(wildcards), "options": options, "file": _below(file, results)}
    normal: dict[str, Any] = json.loads(json.dumps(plan, default=str))
    return normal


def _record_of(name: str, results: str | Path) -> Path:
    return Path(results) / _RECORDS / f"{name}.json"


def record(path: str | Path, results: str | Path, plan: Mapping[str, Any]) -> None:
    """Keep the plan and the digest of a file that cannot carry them."""
    name = _below(path, results)
    if name is not None:
        with atomic_path(_record_of(name, results)) as temporary:
            temporary.write_text(json.dumps({"sha256": file_digest(path), "plan": plan}))


def _recorded(name: str, results: str | Path) -> dict[str, Any]:
    try:
        kept = json.loads(_record_of(name, results).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        kept = None
    if isinstance(kept, dict) and isinstance(kept.get("sha256"), str) and isinstance(kept.get("plan"), dict):
        return kept
    raise FileError(f"{_record_of(name, results)} is damaged: delete it and {Path(results) / name}, and run again")


def read_plan_of(name: str, results: str | Path) -> dict[str, Any]:
    """Plan of a file, by its name below the folder of results; {} for a file without a plan."""
    if name.endswith(".h5"):
        return read_plan(Path(results) / name)
    plan: dict[str, Any] = _recorded(name, results).get("plan", {})
    return plan


def check_input(path: str | Path, results: str | Path) -> None:
    """Check that a file of the results is the one that its name says, and that a table is as it was written.

    Raises:
        FileError: it is another one, or was changed; the message has both identities.
    """
    name = _below(path, results)
    if name is None:
        return
    if name.endswith(".h5"):
        made = read_plan(path).get("file", name)
        if made != name:
            raise FileError(f"{path}: expected the file {name}, got {made} under its name: delete it and run again")
        return
    kept = _recorded(name, results)
    if not kept:
        return
    if kept["plan"]["file"] != name:
        raise FileError(f"{path}: expected the record of {name}, got that of {kept['plan']['file']}: delete both and run again")
    if file_digest(path) != kept["sha256"]:
        raise FileError(f"{path} was changed after the run wrote it: delete it and run again, or copy it elsewhere to change it")


def give_time_of_inputs(outputs: Sequence[str], inputs: Sequence[str]) -> None:
    """Make outputs at least as recent as their inputs: Snakemake deletes older outputs, also where a clock was ahead."""
    latest = max((os.stat(file).st_mtime_ns for file in inputs if os.path.isfile(file)), default=0)
    for file in outputs:
        if os.path.isfile(file) and os.stat(file).st_mtime_ns < latest:
            os.utime(file, ns=(latest, latest))


def _plans(results: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Names and plans of the files of the results; the plan is None if it is damaged, or if an HDF5 file has none."""
    for folder, folders, files in os.walk(results):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".checkpoints")]
        for file in files:
            name = Path(folder, file).relative_to(results).as_posix()
            try:
                if name.endswith(".h5") and not file.startswith("."):
                    yield name, read_plan(results / name) or None
                elif kept := _recorded(name, results):
                    yield name, kept["plan"]
            except OSError:
                yield name, None


def differing(results: str | Path, options_of: Callable[[str, Mapping[str, str]], Any]) -> tuple[list[str], list[str]]:
    """Files of the results that another config made, and files without a plan.

    Args:
        results: folder.
        options_of: options that today's config plans for a rule and wildcards; it raises LookupError where there is no such rule.
    """
    other, unknown = [], []
    for name, plan in _plans(Path(results)):
        path = f"{results}/{name}"
        if plan is None:
            unknown.append(path)
            continue
        try:
            today = plan_of(plan["rule"], plan["wildcards"], options_of(plan["rule"], plan["wildcards"]), path, results)
        except (LookupError, AttributeError, TypeError):
            continue  # no longer part of the run
        if today != plan:
            other.append(path)
    return other, unknown
