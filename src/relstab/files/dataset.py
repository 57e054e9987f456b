"""Prepared data sets and noisy test sets: the one module that writes and reads these HDF5 files.

A prepared data set holds, for each part ("train" and "test"), ``images`` (uint8, [N, C, n, n]), ``labels`` (int64, [N]),
``counts`` (images per class) and ``histogram`` (pixels per channel and value, [C, 256]); and the ``mean`` and ``std`` of each
channel, [C], with which images are normalised. A folder of images adds ``classes`` (their names) and ``problems``. Images with
two lit pixels add the ``sites`` of the pixels of each part, [N, 2], and their ``task`` (JSON).
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relstab.files.hdf5 import open_hdf5, provenance, read_attributes, write_hdf5

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "PARTS",
    "Dataset",
    "DatasetWriter",
    "Images",
    "Labels",
    "Parts",
    "normalisation",
    "normalise",
    "normalise_with",
    "read_dataset",
    "read_dataset_name",
    "read_noisy_test",
    "read_pairs",
    "save_noisy_test",
    "write_dataset",
]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Parts = dict[str, tuple[Images, Labels]]

PARTS = ("train", "test")
"""Parts of a data set."""


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        name: its name in the config (``data.name``).
        images: per part, uint8, [N, C, n, n].
        labels: per part, int64, [N].
        mean, std: of the training pixels, scaled to [0, 1], per channel, [C].
        training_images: P, the size of the training set where it is an axis of the run; None where it is not.
        available_images: training images of the data set, of which the first P are used; None where P is no axis.
    """

    name: str
    images: dict[str, Images]
    labels: dict[str, Labels]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    training_images: int | None = None
    available_images: int | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image."""
        _, channels, rows, cols = self.images["train"].shape
        return channels, rows, cols

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels["train"].max()) + 1


def normalisation(dataset: Dataset, device: "torch.device | str") -> tuple["Tensor", "Tensor"]:
    """Factor and subtrahend per channel, [C, 1, 1], that take pixels of 0 to 255 to mean 0 and standard deviation 1."""
    import torch

    mean, std = (torch.from_numpy(value).to(device)[:, None, None] for value in (dataset.mean, dataset.std))
    return 1 / (255 * std), mean / std


def normalise_with(images: "Tensor", factor: "Tensor", subtrahend: "Tensor") -> "Tensor":
    """Convert uint8 images to float32, multiply by ``factor`` and subtract ``subtrahend``, both in place."""
    return images.float().mul_(factor).sub_(subtrahend)


def normalise(images: "Tensor", dataset: Dataset) -> "Tensor":
    """Convert uint8 images [N, C, n, n] to float32 with mean 0 and standard deviation 1 per channel of the training pixels."""
    return normalise_with(images, *normalisation(dataset, images.device))


def pixel_histogram(images: Images) -> NDArray[np.int64]:
    """Number of pixels per channel and value, [C, 256], of images [N, C, n, n]."""
    count, channels, rows, cols = images.shape
    total = np.zeros((channels, 256), np.int64)
    # A million pixels at a time: counting makes eight bytes of each.
    step = max(1, (1 << 20) // max(1, rows * cols))
    for start in range(0, count, step):
        for channel in range(channels):
            total[channel] += np.bincount(images[start : start + step, channel].ravel(), minlength=256)
    return total


def pixel_moments(histogram: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact mean and standard deviation per channel, [C], of pixels scaled to [0, 1], from :func:`pixel_histogram`."""
    values = np.arange(256) / 255
    share = histogram / histogram.sum(1, keepdims=True)
    mean = share @ values
    return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))


class DatasetWriter:
    """Writes the groups of a prepared data set into an open file; see :func:`write_dataset`."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def add_part(self, part: str, images: Images, labels: Labels) -> None:
        """Write a part that is in memory."""
        chunks = (min(256, len(images)), *images.shape[1:])
        self._file.create_dataset(f"{part}/images", data=images, chunks=chunks, compression="gzip", compression_opts=1)
        self._add_facts(part, labels, np.bincount(labels), pixel_histogram(images))

    def add_batches(
        self,
        part: str,
        labels: Labels,
        classes: int,
        image_shape: tuple[int, int, int],
        batches: Iterable[tuple[Images, NDArray[np.bool_]]],
    ) -> NDArray[np.int64]:
        """Write a part batch by batch, without the whole of it in memory.

        Args:
            part: "train" or "test".
            labels: of all images that may come, [N].
            classes: number of classes.
            image_shape: channels, rows and columns.
            batches: images [m, C, n, n], and for each of the next of the N images whether it is among them.

        Returns:
            Number of images per class.
        """
        # Without compression: gzip gains little on photographs and takes longer than decoding them.
        stored: Any = self._file.create_dataset(
            f"{part}/images",
            (len(labels), *image_shape),
            np.uint8,
            chunks=(max(1, min(256, len(labels), (1 << 22) // int(np.prod(image_shape)))), *image_shape),
            maxshape=(len(labels), *image_shape),
        )
        histogram = np.zeros((image_shape[0], 256), np.int64)
        present: list[NDArray[np.bool_]] = []
        written = 0
        for images, is_present in batches:
            stored[written : written + len(images)] = images
            written += len(images)
            histogram += pixel_histogram(images)
            present.append(is_present)
        stored.resize(written, axis=0)
        labels = labels[np.concatenate(present)]
        counts = np.bincount(labels, minlength=classes)
        self._add_facts(part, labels, counts, histogram)
        return counts

    def _add_facts(self, part: str, labels: Labels, counts: NDArray[np.int64], histogram: NDArray[np.int64]) -> None:
        self._file[f"{part}/labels"], self._file[f"{part}/counts"] = labels, counts
        self._file[f"{part}/histogram"] = histogram

    def add_folder(self, classes: Sequence[str], problems: Sequence[tuple[str, str]]) -> None:
        """Write the names of the classes of a folder, and the path and reason of each problem in it."""
        text = h5py.string_dtype()
        self._file["classes"] = np.array([_printable(name) for name in classes], text)
        for column, key in enumerate(("path", "reason")):
            self._file[f"problems/{key}"] = np.array([_printable(problem[column]) for problem in problems], text)

    def add_pairs(self, task: Mapping[str, Any], sites: Mapping[str, NDArray[np.int32]]) -> None:
        """Write the task of images with two lit pixels, and by part the sites of these, [N, 2]."""
        self._file.attrs["task"] = json.dumps(task)
        for part, values in sites.items():
            self._file[f"{part}/sites"] = values

    def count(self, part: str) -> int:
        """Number of images of a part that were written."""
        return len(self._file[f"{part}/labels"])

    def pixel_moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation per channel, [C], of the training pixels written, scaled to [0, 1]."""
        return pixel_moments(self._file["train/histogram"][:])

    def add_normalisation(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        """Write the mean and standard deviation per channel, [C], with which images are normalised."""
        self._file["mean"], self._file["std"] = mean.astype(np.float32), std.astype(np.float32)


def _printable(name: str) -> str:
    """Name of a file with escapes for bytes that are not text."""
    return name.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def write_dataset(path: str | Path, name: str, parameters: Mapping[str, Any], seed: int) -> Iterator[DatasetWriter]:
    """Write a new file of a prepared data set, atomically.

    Args:
        path: of the HDF5 file.
        name: of the data set.
        parameters: all that its content depends on, besides the seed.
        seed: of the whole run.
    """
    with write_hdf5(path, {"name": name, **provenance(parameters, seed)}, "data set") as file:
        yield DatasetWriter(file)


def read_dataset(path: str | Path, training_images: int | None = None) -> Dataset:
    """Read a prepared data set.

    Args:
        path: of the HDF5 file.
        training_images: P, where the size of the training set is an axis: the first P of its training images; None for all.
    """
    with open_hdf5(path, "data set") as file:
        if training_images is not None:
            counts = file["train/counts"][:]
            if not len(counts) <= training_images <= counts.sum():
                raise ValueError(
                    f"expected from {len(counts)} (one per class) to {counts.sum()} training images of {path}, got "
                    f"{training_images} (config.yaml: data.train_images)"
                )
        chosen = {"train": slice(training_images), "test": slice(None)}
        return Dataset(
            name=str(file.attrs["name"]),
            images={part: file[f"{part}/images"][chosen[part]] for part in PARTS},
            labels={part: file[f"{part}/labels"][chosen[part]] for part in PARTS},
            mean=file["mean"][:],
            std=file["std"][:],
            training_images=training_images,
            available_images=None if training_images is None else len(file["train/labels"]),
        )


def read_dataset_name(path: str | Path) -> str:
    """Read the name of the data set of a prepared data set or a noisy test set."""
    return str(read_attributes(path)["name"])


def read_pairs(path: str | Path) -> tuple[dict[str, Any], "Tensor", Labels]:
    """Read the task of images with two lit pixels, and the sites [N, 2] and labels [N] (0 or 1) of the test images."""
    import torch

    with open_hdf5(path, "data set") as file:
        return json.loads(file.attrs["task"]), torch.from_numpy(file["test/sites"][:]), file["test/labels"][:]


def save_noisy_test(path: str | Path, name: str, images: "Tensor", labels: Labels, sigma: float, seed: int) -> None:
    """Write the test images of one noise level.

    Args:
        path: of the HDF5 file.
        name: of the data set.
        images: float32, [N, C, n, n], normalised, with their noise.
        labels: [N].
        sigma: norm of the noise.
        seed: of the whole run.
    """
    attributes: dict[str, Any] = {"name": name, "sigma": sigma}
    with write_hdf5(path, {**attributes, **provenance({"sigma": sigma}, seed)}, "noisy test images") as file:
        file["images"], file["labels"] = images.numpy(), labels


def read_noisy_test(path: str | Path) -> tuple["Tensor", "Tensor"]:
    """Read images [N, C, n, n] (float32, normalised, noisy) and labels [N] of a noisy test set."""
    import torch

    with open_hdf5(path, "noisy test images") as file:
        return torch.from_numpy(file["images"][:]), torch.from_numpy(file["labels"][:])
