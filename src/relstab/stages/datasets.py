"""Data sets from their sources into HDF5 files, once per run, and the noisy test set of each noise level."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relstab.architectures.user_code import source_digest
from relstab.data.datasets import IMAGE_FOLDER, balanced_choice, balanced_order, load_parts
from relstab.data.image_shape import Fit, Shape
from relstab.files.dataset import (
    PARTS,
    DatasetWriter,
    Images,
    normalise,
    read_dataset,
    save_noisy_test,
    write_dataset,
)
from relstab.runs.seeding import derive_seed

__all__ = ["prepare_dataset", "write_noisy_test"]


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
    least_test_images: int = 0,
    nested: bool = False,
) -> None:
    """Find, download, decode or make a data set, check it, choose its images, and write them to HDF5.

    Args:
        path: of the HDF5 file; see :mod:`relstab.files.dataset`.
        name: in :data:`relstab.data.datasets.DATASETS`, "imagefolder", or any other with a ``function``.
        root: folder with its files.
        train_images, test_images: number of images, balanced over the classes; None for all.
        seed: of the split and of the choice of images.
        mean, std: per channel, of pixels scaled to [0, 1]; None measures them on the training images.
        function: "path/to/file.py:function", called with root and seed. It returns ``{"train": (images, labels), "test":
            (images, labels)}``: uint8 [N, C, n, n], and whole numbers [N] from 0.
        imagefolder: for a folder of images: keys of :class:`relstab.config.ImageFolder`.
        workers: processes that decode images.
        least_test_images: how many test images are perturbed later: fewer are an error now, before networks are trained.
        nested: whether networks train on the first P of the training images, for several P: the first P of the file are then
            balanced over the classes for every P, and are those that ``train_images=P`` chooses.

    Raises:
        ValueError: the files, images, labels or arguments are wrong.
        FileNotFoundError: a file is missing and cannot be downloaded.
    """
    counts = {"train": train_images, "test": test_images}
    parameters: dict[str, Any] = {
        "name": name,
        "mean": mean,
        "std": std,
        **{f"{part}_images": count for part, count in counts.items()},
        **({"nested": True} if nested else {}),
    }
    if function is not None:
        parameters |= {"function": function, "source": source_digest(function), "root": root}
    if name == IMAGE_FOLDER:
        parameters |= {"root": root, "imagefolder": dict(imagefolder or {})}
    with write_dataset(path, name, parameters, seed) as writer:
        if name == IMAGE_FOLDER:
            _write_image_folder(writer, str(root), counts, seed, workers, nested, **(imagefolder or {}))
        else:
            for part, (images, labels) in load_parts(name, root, counts, seed, function, nested).items():
                writer.add_part(part, images, labels)
        measured_mean, measured_std = writer.pixel_moments()
        used_std = _configured(std, measured_std, "std")
        if not (used_std > 0).all():
            raise ValueError(f"data set {name!r}: expected training pixels of more than one value in each channel, got one value")
        if (found := writer.count("test")) < least_test_images:
            raise ValueError(
                f"data set {name!r}: expected at least {least_test_images} test images, as many as are perturbed, got {found}: "
                f"lower probes.images (config.yaml)"
            )
        writer.add_normalisation(_configured(mean, measured_mean, "mean"), used_std)


def _configured(values: Sequence[float] | None, measured: NDArray[np.float64], key: str) -> NDArray[np.float64]:
    if values is None:
        return measured
    if len(values) != len(measured):
        raise ValueError(
            f"data.{key} (config.yaml): expected one number for each of the {len(measured)} channels, got {len(values)}"
        )
    return np.asarray(values, np.float64)


def _write_image_folder(
    writer: DatasetWriter,
    root: str,
    counts: Mapping[str, int | None],
    seed: int,
    workers: int,
    nested: bool,
    *,
    channels: int = 3,
    size: int | None = None,
    fit: Fit = "exact",
    resize_to: int | None = None,
    problems: Literal["stop", "skip"] = "stop",
) -> None:
    """Decode ``train/CLASS/*`` and ``test/CLASS/*`` of a folder into a file.

    All problems are printed, one per line. With ``problems="stop"`` any of them is an error, raised once everything was checked;
    with "skip" the other images are the data set, which then has fewer images than ``counts`` says.

    Args:
        writer: of the file.
        root: the folder.
        counts: number of images per part, balanced over the classes; None for all.
        seed: of the order and of the choice of images.
        workers: processes that decode.
        nested: whether the training images come in the order of :func:`relstab.data.datasets.balanced_order`.
        channels, size, fit, resize_to: see :class:`Shape`; without a size, that of the first image, which must be square.
        problems: "stop" or "skip".
    """
    from relstab.data.image_folder import Problem, decode_images, first_size, list_folder

    listing = list_folder(root)
    classes = listing.classes
    if len(classes) < 2:
        raise ValueError(
            f"{root} (config.yaml: data.root): expected 2 or more classes with files in train/ and test/, got {len(classes)}"
        )
    all_problems = list(listing.problems)
    unusable_classes: list[Problem] = []
    shape = Shape(channels, first_size(root, listing.files["train"]) if size is None else size, fit, resize_to)

    def decode(part: str, files: list[str]) -> Iterator[tuple[Images, NDArray[np.bool_]]]:
        for batch in decode_images(root, files, shape, workers, part):
            all_problems.extend(batch.problems)
            yield batch.images, batch.usable

    for part in PARTS:
        labels, count = listing.labels[part], counts[part]
        rng = np.random.default_rng(derive_seed("order", IMAGE_FOLDER, part, seed))
        if count is not None and count < len(classes):
            raise ValueError(
                f"data.{part}_images (config.yaml): expected at least one image for each of the {len(classes)} classes of "
                f"{root}, got {count}"
            )
        if nested and part == "train":
            chosen = balanced_order(labels, rng)
        else:
            # In random order, since probes are the first test images.
            chosen = rng.permutation(len(labels)) if count is None else balanced_choice(labels, count, rng)
        files = [listing.files[part][index] for index in chosen]
        image_shape = (shape.channels, shape.size, shape.size)
        per_class = writer.add_batches(part, labels[chosen], len(classes), image_shape, decode(part, files))
        numbers = ", ".join(f"{name} {number:,}" for name, number in zip(classes, per_class, strict=True))
        print(f"{part}: {per_class.sum():,} images of {len(classes)} classes: {numbers}")
        unusable_classes += [
            Problem(f"{part}/{classes[label]}", "has no image that can be used") for label in np.flatnonzero(per_class == 0)
        ]
    all_problems += unusable_classes
    for problem in all_problems:
        print(problem)
    if unusable_classes and problems == "skip":
        raise ValueError(
            f"{unusable_classes[0].path} of {root} {unusable_classes[0].reason} (the log lists the reasons): mend its images, or "
            f"delete the class in both parts"
        )
    if all_problems and problems == "stop":
        shown = "; ".join(map(str, all_problems[:3]))
        more = f"; and {len(all_problems) - 3:,} more, listed in the log" if len(all_problems) > 3 else ""
        raise ValueError(
            f"{root} (config.yaml: data.root): expected images alone, got {len(all_problems):,} problems: {shown}{more} (mend or "
            f"delete them, or leave them out with data.imagefolder.problems: skip)"
        )
    writer.add_folder(classes, all_problems)


def write_noisy_test(path: str | Path, dataset: str | Path, sigma: float, seed: int = 0) -> None:
    """Write the normalised test images of one noise level, with noise of norm about ``sigma`` that is drawn once.

    Training images get new noise at every epoch; see :func:`relstab.add_noise`.

    Args:
        path: of the HDF5 file to write.
        dataset: file of :func:`prepare_dataset`.
        sigma: norm of the noise.
        seed: of the whole run.
    """
    import torch

    from relstab.noise import add_noise
    from relstab.runs.seeding import make_generator

    data = read_dataset(dataset)
    clean = normalise(torch.from_numpy(data.images["test"]), data)
    noisy = add_noise(clean, sigma, make_generator("test noise", data.name, sigma, seed))
    save_noisy_test(path, data.name, noisy, data.labels["test"], sigma, seed)
