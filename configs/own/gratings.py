"""A user data set: gratings of four orientations, at random phases and spacings."""

from pathlib import Path

import numpy as np

SIZE = 28
ORIENTATIONS = 4


def gratings(root: Path | None, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of both parts.

    Args:
        root: the folder in ``data.root``, for data sets that are read from files; this one is computed.
        seed: the seed of the run, for random numbers.

    Returns:
        by part, "train" and "test": images, uint8 [N, channels, n, n], and labels, whole numbers from 0, [N].
    """
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:SIZE, :SIZE]

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % ORIENTATIONS
        angle = (labels * np.pi / ORIENTATIONS)[:, None, None]
        spacing, phase = rng.uniform(5, 9, (count, 1, 1)), rng.uniform(0, 2 * np.pi, (count, 1, 1))
        waves = np.cos(2 * np.pi * (rows * np.sin(angle) + cols * np.cos(angle)) / spacing + phase)
        images = 127 + 60 * waves + rng.normal(0, 30, waves.shape)
        return images.clip(0, 255).astype(np.uint8)[:, None], labels

    return {"train": part(800), "test": part(400)}
