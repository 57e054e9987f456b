"""Networks that a job trains for other jobs of its run, and where they wait for them.

Each network has its own job, so that a new seed trains that seed only. Where one job trains several networks, the run lists those
that it trains, and the job saves the networks of others in their folders of checkpoints. The own job of such a network only moves
it to its place, as long as the file is what that job would make: of the same plan, and not older than its inputs.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from relstab.files.checkpoints import checkpoints_of
from relstab.files.hdf5 import atomic_path, read_plan

__all__ = ["PlannedNetwork", "discard_planned", "early_path", "planned_like", "take_early", "write_planned"]

_LIST = ".planned_networks.json"


@dataclass(frozen=True)
class PlannedNetwork:
    """A network that a run trains.

    Attributes:
        path: of its file.
        plan: of its file.
        dataset, test: files of its images.
        log: of its job.
        made: inputs that the same run makes before.
    """

    path: str
    plan: dict[str, Any]
    dataset: str
    test: str
    log: str
    made: list[str] = field(default_factory=list)

    @property
    def sigma(self) -> float:
        return float(self.plan["wildcards"]["noise"])

    @property
    def seed(self) -> int:
        return int(self.plan["wildcards"]["seed"])

    @property
    def events(self) -> Path:
        """Folder of its TensorBoard event files, beside the log: seed0.log, seed0/events..."""
        return Path(self.log).with_suffix("")

    def is_ready(self, since: float) -> bool:
        """Whether its inputs are those of the run that began at the time ``since``, and it still has to be trained."""

        def is_old(file: str) -> bool:
            return not os.path.exists(file) or os.stat(file).st_mtime < since

        inputs = (self.dataset, self.test)
        missing = not all(map(os.path.exists, inputs)) or any(map(is_old, self.made))
        return not missing and is_old(self.path) and not self.is_trained_early()

    def is_trained_early(self) -> bool:
        """Whether the file that another job has made of it is what its own job would make."""
        early = early_path(self.path)
        try:
            latest = max(os.stat(file).st_mtime_ns for file in (self.dataset, self.test))
            return read_plan(early) == self.plan and early.stat().st_mtime_ns >= latest
        except OSError:
            return False


def early_path(path: str | Path) -> Path:
    """File in which a network waits that another job has trained."""
    return checkpoints_of(path) / "trained.h5"


def take_early(network: PlannedNetwork) -> bool:
    """Move the network to its place if another job has trained it; remove a file that is of other images or another recipe."""
    fits = network.is_trained_early()
    if fits:
        early_path(network.path).replace(network.path)
    else:
        early_path(network.path).unlink(missing_ok=True)
    return fits


def write_planned(results: str | Path, networks: Iterable[PlannedNetwork]) -> None:
    """List the networks that a run trains and that its jobs may train for each other."""
    with atomic_path(Path(results) / _LIST) as temporary:
        temporary.write_text(json.dumps([asdict(network) for network in networks]))


def discard_planned(results: str | Path) -> None:
    """Remove the list of a run that has made all that it lists."""
    (Path(results) / _LIST).unlink(missing_ok=True)


def planned_like(network: PlannedNetwork, results: str | Path) -> list[PlannedNetwork]:
    """The other networks of this run that differ from ``network`` in noise and seed alone, and are ready to be trained."""
    path = Path(results) / _LIST
    try:
        planned = [PlannedNetwork(**each) for each in json.loads(path.read_text())]
        since = path.stat().st_mtime
    except FileNotFoundError:
        return []

    def kind(each: PlannedNetwork) -> tuple[Any, ...]:
        wildcards = {key: value for key, value in each.plan["wildcards"].items() if key not in ("noise", "seed")}
        return wildcards, each.plan["options"], each.dataset

    return [each for each in planned if each.path != network.path and kind(each) == kind(network) and each.is_ready(since)]
