"""The file of the probes: images x, their deformed versions tau(x) and their noisy versions x + eta."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5

if TYPE_CHECKING:
    from relstab.probes import Probes

__all__ = ["read_images", "read_probes", "write_probes"]

Image = NDArray[np.float32]


def write_probes(
    path: str | Path,
    probes: "Probes",
    dataset: str,
    parameters: Mapping[str, Any],
    seed: int,
    positions: NDArray[np.int64] | None = None,
    noise: float = 0.0,
) -> None:
    """Write probes to HDF5: "images", "deformed" and "noisy", [P, C, n, n], and "positions".

    Args:
        path: of the HDF5 file.
        probes: from :func:`relstab.make_probes`.
        dataset: name of the data set whose test images they are.
        parameters: how they were made.
        seed: of the run.
        positions: of the images in the test set, [P]; by default they are its first images.
        noise: sigma of the test images.
    """
    from relstab.probes import VERSIONS

    with write_hdf5(path, {"name": dataset, "sigma": noise, **provenance(parameters, seed)}, "probes") as file:
        for version in VERSIONS:
            file[version] = getattr(probes, version).numpy()
        file["positions"] = np.arange(len(probes)) if positions is None else positions


def read_probes(path: str | Path) -> "Probes":
    """Probes out of a file of :func:`write_probes`."""
    import torch

    from relstab.probes import VERSIONS, Probes

    with open_hdf5(path, "probes") as file:
        images, deformed, noisy = (torch.from_numpy(file[version][:]) for version in VERSIONS)
    return Probes(images, deformed, noisy)


def read_images(probes: str | Path, noisy: Mapping[float, str | Path], example: int) -> dict[str, dict[Any, Image]]:
    """Images that figure 1 shows, [C, n, n].

    Args:
        probes: file of the probes.
        noisy: files of noisy test images, by noise level.
        example: which of the probes, from 0.

    Returns:
        "probe": the image and its two perturbed versions, by the names of the versions; "noisy": the same test image by noise
        level.
    """
    with open_hdf5(probes, "probes") as file:
        count = len(file["images"])
        if example >= count:
            raise ValueError(
                f"expected an example from 0 to {count - 1} for {probes}, got {example} (config.yaml: figures.example)"
            )
        probe = {version: file[version][example] for version in ("images", "deformed", "noisy")}
        position = int(file["positions"][example])
    noisy_images = {}
    for noise, path in noisy.items():
        with open_hdf5(path, "noisy test images") as file:
            noisy_images[noise] = file["images"][position]
    return {"probe": probe, "noisy": noisy_images}
