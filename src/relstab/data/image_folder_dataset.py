"""A folder of images as a data set: which images are kept, what becomes of those that cannot be used, and how it is written."""

from collections.abc import Mapping
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from relstab.data.datasets import IMAGE_FOLDER, PARTS, balanced_choice
from relstab.data.image_folder import Problem, decode_images, first_size, list_folder
from relstab.data.image_shape import Fit, Shape
from relstab.seeding import derive_seed

__all__ = ["write_image_folder"]


def write_image_folder(
    file: h5py.File,
    root: str,
    counts: Mapping[str, int | None],
    seed: int,
    workers: int = 1,
    *,
    channels: int = 3,
    size: int | None = None,
    fit: Fit = "exact",
    resize_to: int | None = None,
    problems: Literal["stop", "skip"] = "stop",
) -> None:
    """Decode ``train/CLASS/*`` and ``test/CLASS/*`` of a folder into an open file.

    What cannot be used is printed, one line each. With ``problems="stop"`` any of it is an error, after all has been looked at;
    with "skip" the rest is the data set, and the list stands in the file under ``problems``. Fewer images are then kept than
    ``counts`` says.

    Args:
        file: gets for each part ``images`` (uint8, [N, C, n, n], in random order), ``labels``, ``counts`` of each class and
            ``histogram`` of the pixels; ``classes``, their names; ``problems/path`` and ``problems/reason``.
        root: the folder.
        counts: by part, how many images to keep, as many of each class as of any other; None keeps all.
        seed: of the run, for the order and the choice.
        workers: processes that decode.
        channels, size, fit, resize_to: see :class:`Shape`; without a size, that of the first image, which
            must then be square.
        problems: "stop" or "skip".
    """
    if problems not in ("stop", "skip"):
        raise ValueError(f"problems is {problems!r}: 'stop' or 'skip' is wanted")
    listing = list_folder(root)
    if len(listing.classes) < 2:
        raise ValueError(
            f"{root} has {len(listing.classes)} classes with files in both train/ and test/ (config.yaml: data.root): "
            f"at least two are wanted"
        )
    found = list(listing.problems)
    lost: list[Problem] = []
    shape = Shape(channels, first_size(root, listing.files["train"]) if size is None else size, fit, resize_to)
    for part in PARTS:
        labels = listing.labels[part]
        rng = np.random.default_rng(derive_seed("order", IMAGE_FOLDER, part, seed))
        count = counts[part]
        if count is not None and count < len(listing.classes):
            raise ValueError(
                f"data.{part}_images is {count} (config.yaml), and {root} has {len(listing.classes)} classes: at least one image "
                f"of each is wanted"
            )
        # In random order, since probes are the first test images.
        chosen = rng.permutation(len(labels)) if count is None else balanced_choice(labels, count, rng)
        files = [listing.files[part][index] for index in chosen]
        kept, bad = _write_part(file, part, root, files, labels[chosen], shape, workers)
        found += bad
        by_class = np.bincount(kept, minlength=len(listing.classes))
        file[f"{part}/counts"] = by_class
        each = ", ".join(f"{name} {number:,}" for name, number in zip(listing.classes, by_class, strict=True))
        print(f"{part}: {len(kept):,} images of {len(listing.classes)} classes: {each}")
        emptied = [
            Problem(f"{part}/{listing.classes[label]}", "has no image that can be used")
            for label in np.flatnonzero(by_class == 0)
        ]
        found += emptied
        lost += emptied
    for problem in found:
        print(problem)
    if lost and problems == "skip":
        raise ValueError(
            f"{lost[0].path} of {root} {lost[0].reason} (all that cannot be is in the log): mend its images, or delete that "
            f"class in both parts"
        )
    if found and problems == "stop":
        shown = "; ".join(map(str, found[:3]))
        more = f"; and {len(found) - 3:,} more, all in the log" if len(found) > 3 else ""
        raise ValueError(
            f"{len(found):,} of what {root} holds cannot be used: {shown}{more} (mend or delete it, or leave it out with "
            f"data.imagefolder.problems: skip in config.yaml)"
        )
    text = h5py.string_dtype()
    file["classes"] = np.array([_printable(name) for name in listing.classes], text)
    for key in ("path", "reason"):
        file[f"problems/{key}"] = np.array([_printable(getattr(problem, key)) for problem in found], text)


def _printable(name: str) -> str:
    """A name that may have bytes which are no text."""
    return name.encode(errors="backslashreplace").decode()


def _write_part(
    file: h5py.File, part: str, root: str, files: list[str], labels: NDArray[np.int64], shape: Shape, workers: int
) -> tuple[NDArray[np.int64], list[Problem]]:
    """Labels of the images that were written, and what is wrong with the others."""
    image = (shape.channels, shape.size, shape.size)
    # Not compressed: photographs are noise to gzip, which would take longer than decoding them.
    stored: Any = file.create_dataset(
        f"{part}/images",
        (len(files), *image),
        np.uint8,
        chunks=(max(1, min(256, len(files), (1 << 22) // int(np.prod(image)))), *image),
        maxshape=(len(files), *image),
    )
    histogram = np.zeros((shape.channels, 256), np.int64)
    whole: list[NDArray[np.bool_]] = []
    bad: list[Problem] = []
    written = 0
    for decoded in decode_images(root, files, shape, workers, part):
        stored[written : written + len(decoded.images)] = decoded.images
        written += len(decoded.images)
        histogram += decoded.histogram
        whole.append(decoded.whole)
        bad += decoded.problems
    stored.resize(written, axis=0)
    kept = labels[np.concatenate(whole)]
    file[f"{part}/labels"], file[f"{part}/histogram"] = kept, histogram
    return kept, bad
