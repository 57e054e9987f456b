"""The file of the images that pretrained networks are measured on, as pixels of 0 to 255."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5

__all__ = ["read_pixels", "write_pixels"]


def write_pixels(
    path: str | Path,
    parts: Mapping[str, Mapping[str, NDArray[np.uint8]]],
    dataset: str,
    parameters: Mapping[str, Any],
    seed: int,
) -> None:
    """Write images to HDF5: for each part its pixels [N, 3, n, n], and the names of its files under "PART_files".

    Args:
        path: of the HDF5 file.
        parts: "probes" and "calibration": pixels [3, n, n] by file name.
        dataset: its name.
        parameters: everything that the images depend on besides the seed.
        seed: of the whole run.
    """
    with write_hdf5(path, {"name": dataset, **provenance(parameters, seed)}, "images") as file:
        for part, images in parts.items():
            file[part] = np.stack(list(images.values()))
            # A file name is bytes on the disk, and need not be text.
            file[f"{part}_files"] = [os.fsencode(name).decode(errors="replace") for name in images]


def read_pixels(path: str | Path, part: str) -> NDArray[np.uint8]:
    """Pixels [N, 3, n, n] of one part, "probes" or "calibration", of a file of :func:`write_pixels`."""
    with open_hdf5(path, "images") as file:
        pixels: NDArray[np.uint8] = file[part][:]
        return pixels
