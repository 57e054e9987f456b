"""All faults, seeded."""

import contextlib
import io
import random
import tempfile
from pathlib import Path

from torture.configs import break_configs, draw_configs
from torture.count import Count
from torture.files import break_checkpoints, break_files, break_tables, make_results
from torture.hostile import hostile_files
from torture.runs import fill_disks, kill_stages, kill_workflow

__all__ = ["run"]


def run(seed: int = 0, number: int = 60, workflow: int = 4) -> Count:
    """Try all faults.

    Args:
        seed: of moments, places and values.
        number: bytes that are flipped in each kind of file; of kills and full disks there are a third.
        workflow: kills of the whole workflow.
    """
    moments, count = random.Random(seed), Count()
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(temporary)
        results = folder / "results"
        make_results(results)
        break_files(results, count, moments, number)
        break_tables(results, count, moments, number // 3)
        break_checkpoints(folder / "checkpoints", count, moments, number)
        break_configs(folder, count, moments, number)
        draw_configs(count, moments, 5 * number)
        hostile_files(folder / "hostile", count, moments, number)
        kill_stages(folder / "killed", count, moments, number // 3)
        fill_disks(folder / "full", count, moments, number // 3)
        if workflow:
            kill_workflow(folder / "workflow", count, moments, workflow)
    return count
