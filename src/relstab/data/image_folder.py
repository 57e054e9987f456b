"""Folders of images, ``train/CLASS/*`` and ``test/CLASS/*``: listed, checked and decoded by several processes.

A file becomes a :class:`Problem` instead of an image if it is truncated, is not an image, declares billions of pixels, or does
not have the format of its suffix or the size of the data set.
"""

import errno
import math
import os
import re
import stat
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from tqdm import tqdm

from relstab.data.image_shape import Fit, Shape

__all__ = [
    "FORMATS",
    "Decoded",
    "FolderListing",
    "ImageProblem",
    "Problem",
    "decode_images",
    "first_size",
    "list_folder",
    "list_images",
    "read_image",
]

FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".ppm": "PPM", ".pgm": "PPM",
    ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
"""Format that a file must have, per suffix in lower case."""

MAX_PIXELS = 2**26
"""Most pixels of an image, 8192 x 8192: decompression bombs, small files that declare more, are not decoded."""

# Formats that can hold colours with 16 bits per channel.
_MAY_BE_DEEP = {"PNG", "PPM", "TIFF"}
# Modes with 8 bits per channel or fewer: conversion of the others would lose bits.
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_BATCH_BYTES = 1 << 21
# Errors of opening that are the file's fault. All others are the disk's or the network's, and end the job.
_FILE_ERRORS = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}
_MODES = {1: "L", 3: "RGB"}


class ImageProblem(ValueError):  # noqa: N818  # becomes a Problem
    """An image cannot be used; the message is the reason, without the name of the file."""


class Problem(NamedTuple):
    """A file or folder that cannot be used: its path under the root, and the reason, a predicate of it."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


def _fitted(image: Image.Image, shape: Shape) -> Image.Image:
    width, height = image.size
    size = shape.size
    if width == height == size == (shape.resize_to or size):
        return image
    if shape.fit == "exact":
        raise ImageProblem(f"has {width} x {height} pixels, expected {size} x {size} (fit: exact)")
    if shape.fit == "stretch":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    shorter = shape.resize_to or size
    longer = shorter * max(width, height) // min(width, height)
    if longer * shorter > MAX_PIXELS:
        raise ImageProblem(f"has {width} x {height} pixels, too long and thin to be resized")
    new = (shorter, longer) if width <= height else (longer, shorter)
    left, top = (round((side - size) / 2) for side in new)
    return image.resize(new, Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def _format_of(path: str | Path) -> str:
    """Format that a regular file must have by its suffix."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        raise ImageProblem(f"has the suffix {suffix!r}, expected one of {', '.join(FORMATS)}")
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block
        raise ImageProblem("is not a regular file")
    return FORMATS[suffix]


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether colours have 16 bits. Pillow silently keeps the upper 8; only the arguments of its decoder show it."""
    arguments = [tile[3] for tile in image.tile] if image.format in _MAY_BE_DEEP else []
    if image.format == "PPM":  # the largest value is among the arguments
        return any(isinstance(n, int) and n > 255 for each in arguments if isinstance(each, tuple) for n in each)
    return any(";16" in str(each) for each in arguments)


def _check_header(image: ImageFile.ImageFile) -> None:
    """Check the size and the mode that an image declares, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageProblem(f"declares {image.width} x {image.height} pixels, expected at most {MAX_PIXELS:,}")
    if _is_deep(image) or image.mode not in _EIGHT_BITS:
        raise ImageProblem(f"has more than 8 bits per channel (mode {image.mode})")


_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
_JPEG_END = b"\xd9"


def _has_jpeg_end(content: bytes) -> bool:
    """Whether the markers of a JPEG file lead to that of its end. Pillow paints grey what is missing before it."""
    place = 2
    while match := _JPEG_MARKER.search(content, place):
        if match[1] == _JPEG_END:
            return True
        # Segments have a length; behind the header of a scan come its data, in which a marker is escaped.
        place = match.end() + int.from_bytes(content[match.end() : match.end() + 2], "big")
    return False


def _decoded(path: str | Path, shape: Shape) -> NDArray[np.uint8]:
    form = _format_of(path)
    if form == "JPEG" and not _has_jpeg_end(content := Path(path).read_bytes()) and content.startswith(b"\xff\xd8"):
        raise ImageProblem("is truncated or damaged (its data end before the image does)")
    if form == "PNG":
        # Pillow decodes pixels without checking their checksums: a truncated download padded with zeros would pass.
        with Image.open(path, formats=(form,)) as image:
            _check_header(image)
            image.verify()
    # Only the reader of this format opens the file.
    with Image.open(path, formats=(form,)) as image:
        _check_header(image)
        image.load()
        # Convert before resizing: the indices of a palette cannot be averaged.
        converted = image if image.mode == _MODES[shape.channels] else image.convert(_MODES[shape.channels])
        pixels = np.asarray(_fitted(converted, shape))
    return pixels[None] if shape.channels == 1 else pixels.transpose(2, 0, 1)


def _cause(path: str | Path, error: Exception) -> str:
    """Reason why an image could not be decoded; raise the error again if the image is not its cause."""
    if isinstance(error, ImageProblem):
        return str(error)
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in {None, *_FILE_ERRORS}):
        raise error
    if isinstance(error, Image.DecompressionBombError):
        return f"declares more pixels than the allowed {MAX_PIXELS:,}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    if os.path.getsize(path) == 0:
        return "is empty"
    if isinstance(error, UnidentifiedImageError):
        try:
            with Image.open(path, formats=[*FORMATS.values(), "GIF"]) as image:
                return f"holds {image.format}, expected {FORMATS[os.path.splitext(path)[1].lower()]} by its suffix"
        except Exception:  # no reader knows it
            return "is not an image"
    return f"is truncated or damaged ({error})" if str(error) else f"is damaged ({type(error).__name__})"


def read_image(path: str | Path, channels: int, size: int, fit: Fit = "exact", resize_to: int | None = None) -> NDArray[np.uint8]:
    """Decode one file, [channels, size, size].

    Transparency is dropped, the orientation tag of a camera is not applied, and the first of several frames is taken.

    Args:
        path: of the file; its suffix, in :data:`FORMATS`, names its format.
        channels, size, fit, resize_to: see :class:`Shape`.

    Raises:
        ImageProblem: the file cannot be used.
    """
    return _read(path, Shape(channels, size, fit, resize_to))


def _read(path: str | Path, shape: Shape) -> NDArray[np.uint8]:
    try:
        return _decoded(path, shape)
    except Exception as error:  # readers raise any exception on damaged files
        raise ImageProblem(_cause(path, error)) from error


def _leads_back(folder: str, root: str) -> bool:
    """Whether a link leads to a folder that holds the data set, or to another part or class in it: its images are others'."""
    target, root = os.path.realpath(folder), os.path.realpath(root)
    return os.path.commonpath([target, root]) in (target, root)


def _files_below(folder: str, on_error: Callable[[OSError], None], root: str | None = None) -> Iterator[str]:
    """Files under a folder, sorted by name, without hidden ones. Links are followed, but no folder is visited twice.

    Args:
        folder: where to look.
        on_error: what to do with a folder that cannot be listed.
        root: of the data set, where links that lead back into it, or above it, are errors.
    """
    seen: set[tuple[int, int]] = set()
    for current, folders, files in os.walk(folder, followlinks=True, onerror=on_error):
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            path = os.path.join(current, name)
            if root is not None and os.path.islink(path) and _leads_back(path, root):
                folders.remove(name)
                on_error(OSError(errno.ELOOP, "a link into or above the data set", path))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.join(current, name)


def list_images(folder: str | Path) -> list[Path]:
    """All files under a folder, sorted by path, whatever their suffix, without hidden ones."""

    def fail(error: OSError) -> None:
        raise error

    return sorted(Path(file) for file in _files_below(str(folder), fail))


@dataclass
class FolderListing:
    """Content of a folder of ``train/CLASS/*`` and ``test/CLASS/*``.

    Attributes:
        root: the folder.
        classes: sorted names of the classes that have files in both parts; a label is an index into this list.
        files: per part, sorted paths under the root.
        labels: per part, the label of each file.
        problems: empty classes, classes of one part only, files outside a class, folders that cannot be listed.
    """

    root: Path
    classes: list[str]
    files: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def list_folder(root: str | Path) -> FolderListing:
    """List the images of a folder per part and class, without opening a file."""
    root = Path(root)
    files: dict[str, dict[str, list[str]]] = {}
    problems: list[Problem] = []

    def note(error: OSError) -> None:
        problems.append(Problem(os.path.relpath(error.filename, root), f"cannot be listed ({error.strerror})"))

    start = len(os.path.join(root, ""))  # of a path under the root
    for part in ("train", "test"):
        folder = root / part
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is not a folder: expected folders of images train/CLASS/ and test/CLASS/ under data.root (config.yaml)"
            )
        files[part] = {}
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):  # False for a link to itself, for which the method of the entry raises
                files[part][entry.name] = [file[start:] for file in _files_below(entry.path, note, str(root))]
            else:
                problems.append(Problem(f"{part}/{entry.name}", f"is outside a class, expected images in {part}/CLASS/"))
    names = sorted(files["train"].keys() | files["test"].keys())
    classes = []
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            problems.append(Problem(f"{name!a}", f"differs from the class {other!a} in case or in the form of its letters alone"))
    for name in names:
        lacking = [part for part in files if not files[part].get(name)]
        for part in lacking:
            reason = "is empty" if name in files[part] else f"does not exist, but the other part has a class {name}"
            problems.append(Problem(f"{part}/{name}", reason))
        if not lacking:
            classes.append(name)
    listing = FolderListing(root, classes, problems=problems)
    for part in files:
        listing.files[part] = [file for name in classes for file in files[part][name]]
        counts = [len(files[part][name]) for name in classes]
        listing.labels[part] = np.repeat(np.arange(len(classes)), counts).astype(np.int64)
    return listing


class Decoded(NamedTuple):
    """A batch of decoded images, in the order of their files.

    Attributes:
        images: of the usable files, [m, C, n, n].
        usable: whether each file gave an image.
        problems: of the other files.
    """

    images: NDArray[np.uint8]
    usable: NDArray[np.bool_]
    problems: list[Problem]


def _end_with(parent: int) -> None:
    """End this process once its parent has ended: a killed parent would leave it behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="ends with its parent", daemon=True).start()


def _decode_batch(root: str, files: Sequence[str], shape: Shape) -> Decoded:
    images = np.empty((len(files), shape.channels, shape.size, shape.size), np.uint8)
    usable = np.ones(len(files), bool)
    problems = []
    with warnings.catch_warnings():
        # Pillow warns of defects that it repairs, once per file.
        warnings.simplefilter("ignore")
        for index, file in enumerate(files):
            try:
                images[index] = _read(os.path.join(root, file), shape)
            except ImageProblem as problem:
                usable[index] = False
                problems.append(Problem(file, str(problem)))
    return Decoded(images if usable.all() else images[usable], usable, problems)


def decode_images(
    root: str | Path, files: Sequence[str], shape: Shape, workers: int = 1, title: str = "images"
) -> Iterator[Decoded]:
    """Decode files batch by batch, in their order, in several processes, with progress on stderr.

    Args:
        root: folder of the files.
        files: paths under it.
        shape: of all images.
        workers: number of processes.
        title: of the progress bar.
    """
    from joblib import Parallel, delayed

    # Small enough that every process gets several batches, however large the files are.
    step = max(1, min(512, _BATCH_BYTES // (shape.channels * shape.size**2), math.ceil(len(files) / (8 * workers))))
    batches = [files[start : start + step] for start in range(0, len(files), step)]
    # Processes of joblib, unlike those of multiprocessing and torch, are no forks, which can hang beside threads, and do not run
    # the calling script again. Each watches its parent from its start, so that not even an idle one outlives it.
    parallel: Any = Parallel(
        n_jobs=workers,
        return_as="generator",
        pre_dispatch="3 * n_jobs",
        batch_size=1,
        max_nbytes=None,
        initializer=_end_with,
        initargs=(os.getpid(),),
    )
    with tqdm(total=len(files), desc=title, unit="image", mininterval=2) as bar:
        for decoded in parallel(delayed(_decode_batch)(str(root), batch, shape) for batch in batches):
            bar.update(len(decoded.usable))
            yield decoded


def first_size(root: str | Path, files: Sequence[str]) -> int:
    """Rows and columns of the first file that is an image, which must be square."""
    for file in files:
        path = os.path.join(root, file)
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(path, formats=(_format_of(path),)) as image:
                _check_header(image)
                width, height = image.size
        except Exception as error:
            _cause(path, error)  # decoding reports the file
            continue
        if width != height:
            raise ValueError(
                f"{path}, the first image: expected as many rows as columns, got {width} x {height} pixels: set "
                f"data.imagefolder.size and fit: crop or stretch (config.yaml)"
            )
        print(f"the size of all images is that of the first, {file}: {width} x {height} pixels")
        return width
    raise ValueError(f"{root} (config.yaml: data.root): expected images in train/, got none that can be decoded")
