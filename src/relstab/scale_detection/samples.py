"""Samples of the scale-detection tasks, for figure 5."""

from collections.abc import Mapping

import pandas as pd

from relstab.runs.seeding import make_generator
from relstab.scale_detection.tasks import ScaleTask

__all__ = ["sample_table"]


def sample_table(tasks: Mapping[str, ScaleTask], seed: int = 0) -> pd.DataFrame:
    """Three pairs of each label of each task, with where a deformation moves their sites.

    Args:
        tasks: by the name that figures give them.
        seed: of the whole run.

    Returns:
        For each lit site: task, rule, dimension, size, scale, label, sample, lit (0, 1), row and column (row 0 on a ring),
        moved_row, moved_column.
    """
    import torch

    from relstab.scale_detection.perturbations import move_sites  # here, because it loads torch

    rows = []
    for name, task in tasks.items():
        generator = make_generator("samples", name, seed)
        pairs = task.enumerate()
        for label in (1, -1):
            members = torch.nonzero(pairs.labels == label)[:, 0]
            sites = pairs.sites[members[torch.randperm(len(members), generator=generator)[:3]]]
            moved = move_sites(task, sites, generator)
            for sample in range(len(sites)):
                for lit in range(2):
                    places = []
                    for version in (sites, moved):
                        place = task.coordinates(version[sample, lit]).tolist()
                        places += [0, *place] if task.dimension == 1 else place
                    rows.append([name, task.rule, task.dimension, task.size, task.scale, label, sample, lit, *places])
    of_site = ["label", "sample", "lit", "row", "column", "moved_row", "moved_column"]
    return pd.DataFrame(rows, columns=["task", "rule", "dimension", "size", "scale", *of_site])
