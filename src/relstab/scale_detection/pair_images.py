"""The tasks on images as data sets for the deep networks of the paper (figures 6, 8 and 9)."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relstab.files.dataset import read_dataset_name
from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5
from relstab.scale_detection.perturbations import Noise, make_pair_probes
from relstab.scale_detection.tasks import Pairs, ScaleTask, split_pairs
from relstab.seeding import derive_seed, make_generator

__all__ = ["read_pairs", "write_pair_dataset", "write_pair_probes"]


def _images(task: ScaleTask, pairs: Pairs) -> NDArray[np.uint8]:
    images = np.zeros((len(pairs), task.sites), np.uint8)
    np.put_along_axis(images, pairs.sites.numpy().astype(np.int64), 255, axis=1)
    return images.reshape(-1, 1, task.size, task.size)


def write_pair_dataset(path: str | Path, name: str, task: ScaleTask, train: int, test: int, seed: int = 0) -> None:
    """Write a balanced choice of pairs as a data set of :func:`relstab.files.dataset.read_dataset`.

    Lit pixels are 255, label 1 is y = +1 and label 0 is y = -1. The mean is 0 and the standard deviation such that normalised
    images have ``task.height`` in their lit pixels. The lit sites are kept beside the images.

    Args:
        path: of the HDF5 file.
        name: of the data set.
        task: in two dimensions.
        train, test: pairs, even numbers.
        seed: of the whole run.
    """
    if task.dimension != 2:
        raise ValueError(f"expected a task of dimension 2, images, got {task.dimension}")
    parts = split_pairs(task.enumerate(), train, test, derive_seed("pairs", name, seed))
    parameters = {"task": vars(task), "train": train, "test": test}
    with write_hdf5(path, {"name": name, "task": json.dumps(vars(task)), **provenance(parameters, seed)}, "data set") as file:
        for part, pairs in zip(("train", "test"), parts, strict=True):
            file.create_dataset(f"{part}/images", data=_images(task, pairs), compression="gzip", compression_opts=1)
            file[f"{part}/labels"] = (pairs.labels.numpy() > 0).astype(np.int64)
            file[f"{part}/sites"] = pairs.sites.numpy()
        file["mean"], file["std"] = np.zeros(1, np.float32), np.full(1, 1 / task.height, np.float32)


def read_pairs(path: str | Path) -> tuple[ScaleTask, Pairs]:
    """Task and test pairs of a file of :func:`write_pair_dataset`."""
    import torch

    with open_hdf5(path, "data set") as file:
        labels = 2 * file["test/labels"][:].astype(np.int8) - 1
        return ScaleTask(**json.loads(file.attrs["task"])), Pairs(
            torch.from_numpy(file["test/sites"][:]), torch.from_numpy(labels)
        )


def write_pair_probes(path: str | Path, dataset: str | Path, number: int, noise: Noise = "gaussian", seed: int = 0) -> None:
    """Perturb the first test pairs by moves of one site and matching noise, and write them as probes.

    Args:
        path: of the HDF5 file.
        dataset: file of :func:`write_pair_dataset`.
        number: P.
        noise: "gaussian" or "rectified".
        seed: of the whole run.
    """
    task, pairs = read_pairs(dataset)
    if number > len(pairs):
        raise ValueError(
            f"expected at most {len(pairs)} probes, the number of test pairs (scale_detection.images.test_pairs), got {number} "
            f"(config.yaml: scale_detection.probes)"
        )
    name = read_dataset_name(dataset)
    probes = make_pair_probes(task, pairs.sites[:number], noise, make_generator("pair probes", name, seed))
    with write_hdf5(path, {"name": name, **provenance({"images": number, "noise": noise}, seed)}, "probes") as file:
        for version in ("images", "deformed", "noisy"):
            file[version] = getattr(probes, version).numpy()
