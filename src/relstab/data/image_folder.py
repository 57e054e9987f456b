"""Folders of images, ``train/CLASS/*`` and ``test/CLASS/*``: listed, checked one by one, decoded on several cores.

Nothing in a folder is trusted: a file that is cut off, is no image, says it has billions of pixels, has another format than its
suffix says or another size than the rest becomes a :class:`Problem`, and never pixels of the data set.
"""

import errno
import math
import os
import stat
import threading
import time
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
from relstab.data.pixel_statistics import pixel_histogram

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
"""Format that a file must have, by its suffix in lower case."""

MAX_PIXELS = 2**26
"""Pixels that an image may have, 8192 x 8192: a small file that says it is huge, a decompression bomb, is not decoded."""

# Formats that can hold colours with 16 bits a channel; in the others they cannot.
_MAY_BE_DEEP = {"PNG", "PPM", "TIFF"}
# A channel of these modes has 8 bits or fewer; the others would lose some.
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_CHUNK_BYTES = 1 << 21
# What is wrong with the file itself when it cannot be opened; anything else is the disk's or the network's, and an error.
_OF_THE_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}
_MODES = {1: "L", 3: "RGB"}


class ImageProblem(ValueError):  # noqa: N818  # it goes into a list of problems
    """An image that cannot be used; the message says why, without the name of the file."""


class Problem(NamedTuple):
    """What is wrong with a file or folder: its path under the root, and a reason that reads as the rest of a sentence."""

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
        raise ImageProblem(f"has {width} x {height} pixels, and {size} x {size} is wanted (fit: exact)")
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
        raise ImageProblem(f"is no image by its suffix (one of {', '.join(FORMATS)} is wanted)")
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
        raise ImageProblem("is no file")
    return FORMATS[suffix]


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether colours have 16 bits, of which Pillow keeps the upper 8 and says nothing: only the decoder's arguments tell."""
    arguments = [tile[3] for tile in image.tile] if image.format in _MAY_BE_DEEP else []
    if image.format == "PPM":  # the largest value is among them
        return any(isinstance(n, int) and n > 255 for each in arguments if isinstance(each, tuple) for n in each)
    return any(";16" in str(each) for each in arguments)


def _check_header(image: ImageFile.ImageFile) -> None:
    """What an image says of itself, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageProblem(f"says it has {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} that are decoded")
    if _is_deep(image) or image.mode not in _EIGHT_BITS:
        raise ImageProblem(f"has more than 8 bits a channel (mode {image.mode})")


def _decoded(path: str | Path, shape: Shape) -> NDArray[np.uint8]:
    form = _format_of(path)
    if form == "PNG":
        # Pillow decodes pixels without a look at their checksums: a download that was cut and filled with zeros would pass.
        with Image.open(path, formats=(form,)) as image:
            _check_header(image)
            image.verify()
    # Only the reader of this one format sees the file.
    with Image.open(path, formats=(form,)) as image:
        _check_header(image)
        image.load()
        # Colour before size: the indices of a palette cannot be averaged.
        converted = image if image.mode == _MODES[shape.channels] else image.convert(_MODES[shape.channels])
        pixels = np.asarray(_fitted(converted, shape))
    return pixels[None] if shape.channels == 1 else pixels.transpose(2, 0, 1)


def _cause(path: str | Path, error: Exception) -> str:
    """Why an image could not be decoded, in words that help; what is no matter of the image is raised again."""
    if isinstance(error, ImageProblem):
        return str(error)
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in {None, *_OF_THE_FILE}):
        raise error
    if isinstance(error, Image.DecompressionBombError):
        return f"says it has more pixels than the {MAX_PIXELS:,} that are decoded"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    if os.path.getsize(path) == 0:
        return "is empty"
    if isinstance(error, UnidentifiedImageError):
        try:
            with Image.open(path, formats=[*FORMATS.values(), "GIF"]) as image:
                return f"holds {image.format}, and its suffix says {FORMATS[os.path.splitext(path)[1].lower()]}"
        except Exception:  # whatever it is, no reader knows it
            return "is no image"
    return f"is truncated or damaged ({error})" if str(error) else f"is damaged ({type(error).__name__})"


def read_image(path: str | Path, channels: int, size: int, fit: Fit = "exact", resize_to: int | None = None) -> NDArray[np.uint8]:
    """Image of one file, [channels, size, size].

    Transparency is dropped, the orientation that a camera noted is not applied, and of several frames the first is taken.

    Args:
        path: of the file, whose suffix is that of its format: one of :data:`FORMATS`.
        channels, size, fit, resize_to: see :class:`Shape`.

    Raises:
        ImageProblem: what is wrong with the file.
    """
    return _read(path, Shape(channels, size, fit, resize_to))


def _read(path: str | Path, shape: Shape) -> NDArray[np.uint8]:
    try:
        return _decoded(path, shape)
    except Exception as error:  # a damaged file can make a reader raise anything
        raise ImageProblem(_cause(path, error)) from error


def _files_below(folder: str, on_error: Callable[[OSError], None]) -> Iterator[str]:
    """Files under a folder, in order of their names, links followed but never round in circles; hidden ones are left out."""
    seen: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=on_error):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.join(here, name)


def list_images(folder: str | Path) -> list[Path]:
    """All files under a folder, in order of their paths, whatever their suffix; hidden ones are left out."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is no folder: a folder with images is wanted")

    def fail(error: OSError) -> None:
        raise error

    return sorted(Path(file) for file in _files_below(str(folder), fail))


@dataclass
class FolderListing:
    """What there is in a folder of ``train/CLASS/*`` and ``test/CLASS/*``.

    Attributes:
        root: the folder.
        classes: names of the classes that have files in both parts, in order; a label is a place in this list.
        files: by part, paths under the root, in order.
        labels: by part, the label of each file.
        problems: what cannot be used: empty classes, classes of one part only, files in no class.
    """

    root: Path
    classes: list[str]
    files: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def list_folder(root: str | Path) -> FolderListing:
    """List the images of a folder by part and class; no file is opened."""
    root = Path(root)
    found: dict[str, dict[str, list[str]]] = {}
    problems: list[Problem] = []

    def note(error: OSError) -> None:
        problems.append(Problem(os.path.relpath(error.filename, root), f"cannot be listed ({error.strerror})"))

    start = len(os.path.join(root, ""))  # of a path under the root
    for part in ("train", "test"):
        folder = root / part
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is no folder: an imagefolder has train/CLASS/ and test/CLASS/, folders of images, under data.root "
                f"(config.yaml)"
            )
        found[part] = {}
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):  # False for a link to itself, where the entry's own method raises
                found[part][entry.name] = [file[start:] for file in _files_below(entry.path, note)]
            else:
                problems.append(Problem(f"{part}/{entry.name}", f"is in no class: images are wanted in {part}/CLASS/"))
    names = sorted(found["train"].keys() | found["test"].keys())
    classes = []
    for name in names:
        lacking = [part for part in found if not found[part].get(name)]
        for part in lacking:
            what = "is empty" if name in found[part] else f"does not exist, and {name} is a class of the other part"
            problems.append(Problem(f"{part}/{name}", what))
        if not lacking:
            classes.append(name)
    listing = FolderListing(root, classes, problems=problems)
    for part in found:
        listing.files[part] = [file for name in classes for file in found[part][name]]
        counts = [len(found[part][name]) for name in classes]
        listing.labels[part] = np.repeat(np.arange(len(classes)), counts).astype(np.int64)
    return listing


class Decoded(NamedTuple):
    """Some images in the order of their files.

    Attributes:
        images: of the whole ones, [n, C, s, s].
        whole: of each file, whether it gave an image.
        histogram: how many pixels of each value these images have, by channel: [C, 256].
        problems: of the others.
    """

    images: NDArray[np.uint8]
    whole: NDArray[np.bool_]
    histogram: NDArray[np.int64]
    problems: list[Problem]


def _end_with(parent: int) -> None:
    """End this process when the one that started it has ended: killed, it leaves none behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="ends with its parent", daemon=True).start()


def _decode_chunk(root: str, files: Sequence[str], shape: Shape) -> Decoded:
    images = np.empty((len(files), shape.channels, shape.size, shape.size), np.uint8)
    whole = np.ones(len(files), bool)
    problems = []
    with warnings.catch_warnings():
        # Pillow warns of much that it mends, once for each file.
        warnings.simplefilter("ignore")
        for index, file in enumerate(files):
            try:
                images[index] = _read(os.path.join(root, file), shape)
            except ImageProblem as problem:
                whole[index] = False
                problems.append(Problem(file, str(problem)))
    images = images if whole.all() else images[whole]
    return Decoded(images, whole, pixel_histogram(images), problems)


def decode_images(
    root: str | Path, files: Sequence[str], shape: Shape, workers: int = 1, title: str = "images"
) -> Iterator[Decoded]:
    """Decode files on several cores, some at a time, in their order, with progress on stderr.

    Args:
        root: folder of the files.
        files: paths under it.
        shape: that all images get.
        workers: processes.
        title: in front of the progress.
    """
    from joblib import Parallel, delayed

    # Small enough that every process gets several, however large the files are.
    step = max(1, min(512, _CHUNK_BYTES // (shape.channels * shape.size**2), math.ceil(len(files) / (8 * workers))))
    chunks = [files[start : start + step] for start in range(0, len(files), step)]
    # Its processes are neither forks of this one, which can hang beside threads, nor do they run the calling script again.
    # Decoding takes longer than writing, so that decoded images do not pile up. A process watches its parent from its start on:
    # one that never got images must not outlive a killed parent either.
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
        for decoded in parallel(delayed(_decode_chunk)(str(root), chunk, shape) for chunk in chunks):
            bar.update(len(decoded.whole))
            yield decoded


def first_size(root: str | Path, files: Sequence[str]) -> int:
    """Rows and columns of the first file that is an image: what all others must have where no size is given."""
    for file in files:
        path = os.path.join(root, file)
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(path, formats=(_format_of(path),)) as image:
                _check_header(image)
                width, height = image.size
        except Exception as error:
            _cause(path, error)  # such files are named when they are decoded
            continue
        if width != height:
            raise ValueError(
                f"{path}, the first image, has {width} x {height} pixels and is not square: give data.imagefolder.size and fit, "
                f"crop or stretch (config.yaml)"
            )
        print(f"all images must have the {width} x {height} pixels of {file}, the first")
        return width
    raise ValueError(f"no file under {root} is an image that can be decoded (config.yaml: data.root)")
