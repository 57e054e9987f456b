"""Published data sets: found where they were put or downloaded, checked byte by byte, and read by torchvision.

Nothing is written where the files lie unless they are downloaded: what has to be unpacked is unpacked into a temporary folder.
"""

import functools
import gzip
import hashlib
import io
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relstab.data.download import DownloadError, download, file_digest

__all__ = ["Images", "Labels", "Parts", "PUBLISHED", "SYSTEM_FASHION_MNIST"]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Parts = dict[str, tuple[Images, Labels]]

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

_DEFAULT_ROOT = Path("data")
# More bytes than any of these files has, 47,040,016: what unpacks to more is not unpacked further.
_LARGEST = 1 << 26

# SHA-256 of the decompressed files: gzipped again, as by Debian, they have other digests than torchvision knows.
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# Those of Xiao et al., arXiv 1708.07747.
_FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def _check_file(path: Path, md5: str) -> None:
    """Raise an error that says what is wrong with a file, if anything is."""
    if not path.exists():
        raise ValueError(f"{path} is missing: put a whole copy there, or delete {path.parent}")
    found = file_digest(path, "md5")
    if found != md5:
        raise ValueError(
            f"{path} does not hold the published data ({path.stat().st_size:,} bytes with MD5 {found}, where {md5} is wanted): "
            f"delete it, or put a whole copy there"
        )


def _fetch(
    title: str, wanted: Sequence[tuple[Path, list[str], str]], files: str, folders: Sequence[Path], hint: str = ""
) -> None:
    """Download the files of a data set that are not there.

    Args:
        title: of the data set.
        wanted: path, URLs and MD5 of each.
        files: names of all files of the data set, for the error.
        folders: where they were looked for, for the error.
        hint: what else can be done, for the error.
    """
    try:
        for path, urls, md5 in wanted:
            download(path, urls, "md5", md5)
    except DownloadError as error:
        places = f"not in {folders[0]}" if len(folders) == 1 else f"neither in {' nor in '.join(map(str, folders))}"
        raise FileNotFoundError(
            f"{title} is {places}, and downloading it failed ({error}): put {files} into {folders[0]} "
            f"(config.yaml: data.root){hint}"
        ) from error


def _as_part(images: Any, labels: Any) -> tuple[Images, Labels]:
    return np.ascontiguousarray(images, np.uint8), np.asarray(labels, np.int64).reshape(-1)


def _cifar(class_name: str, title: str, root: Path | None, _seed: int) -> Parts:
    """CIFAR-10 or CIFAR-100: unpacked or as an archive in ``root``, or downloaded there as an archive."""
    from relstab.architectures.torchvision import torchvision

    published = getattr(torchvision.datasets, class_name)
    root = root or _DEFAULT_ROOT
    archive, unpacked = root / published.filename, root / published.base_folder
    if unpacked.exists():
        try:
            for name, md5 in [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]:
                _check_file(unpacked / name, md5)
        except ValueError as error:
            if not archive.exists():
                raise
            _check_file(archive, published.tgz_md5)
            print(f"{error}; {archive} is whole, and is used instead", file=sys.stderr)
        else:
            return _read_cifar(published, root, unpack=False)
    elif archive.exists():
        _check_file(archive, published.tgz_md5)
    else:
        files = f"{archive.name}, or {unpacked.name}, the folder that is in it,"
        _fetch(title, [(archive, [published.url], published.tgz_md5)], files, [root])
    with tempfile.TemporaryDirectory(prefix="relstab-") as temporary:
        # There torchvision finds the archive that it would download.
        Path(temporary, archive.name).symlink_to(archive.resolve())
        return _read_cifar(published, Path(temporary), unpack=True)


def _read_cifar(published: Any, root: Path, unpack: bool) -> Parts:
    parts: Parts = {}
    for part in ("train", "test"):
        read = published(str(root.absolute()), train=part == "train", download=unpack)
        parts[part] = _as_part(read.data.transpose(0, 3, 1, 2), read.targets)
    return parts


def _svhn(root: Path | None, _seed: int) -> Parts:
    """Street View House Numbers, cut out: in ``root``, in its folder SVHN, or downloaded into ``root``."""
    from relstab.architectures.torchvision import torchvision

    published = torchvision.datasets.SVHN
    root = root or _DEFAULT_ROOT
    folders = [root, root / "SVHN"]
    paths, missing = {}, []
    for part in ("train", "test"):
        url, name, md5 = published.split_list[part]
        found = _first(folder / name for folder in folders)
        if found:
            _check_file(found, md5)
        else:
            missing.append((root / name, [url], md5))
        paths[part] = found or root / name
    names = " and ".join(published.split_list[part][1] for part in ("train", "test"))
    _fetch("SVHN", missing, names, folders)
    parts: Parts = {}
    for part, path in paths.items():
        read = published(str(path.parent.absolute()), split=part, download=False)
        parts[part] = _as_part(read.data, read.labels)
    return parts


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _unpack_idx(path: Path, sha256: str, md5: str, target: Path) -> None:
    """Put what a plain or gzipped IDX file holds at ``target``, after a check of it.

    Args:
        path: of the file.
        sha256: of its content, decompressed.
        md5: of the published gzipped file, for the error.
        target: where the content goes.
    """
    content = path.read_bytes()
    size = len(content)
    if path.suffix == ".gz":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(_LARGEST)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} cannot be decompressed ({error}; it has {size:,} bytes with MD5 {file_digest(path, 'md5')}, and the "
                f"published file has MD5 {md5}): delete it, or put a whole copy there"
            ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} does not hold the published data ({size:,} bytes, {len(content):,} decompressed, these with SHA-256 "
            f"{found}, where {sha256} is wanted): delete it, or put a whole copy there"
        )
    target.write_bytes(content)


def _mnist_like(class_name: str, title: str, root: Path | None, _seed: int) -> Parts:
    """MNIST or Fashion-MNIST: in ``root``, in torchvision's folders there, in the system, or downloaded into torchvision's."""
    from relstab.architectures.torchvision import torchvision

    published = getattr(torchvision.datasets, class_name)
    fashion = class_name == "FashionMNIST"
    digests, others = (_FASHION_MNIST, _MNIST) if fashion else (_MNIST, _FASHION_MNIST)
    base = root or _DEFAULT_ROOT
    # The files of both have the same names: those that are downloaded lie apart, and are looked for first.
    raw = base / class_name / "raw"
    folders = [raw, base, *([SYSTEM_FASHION_MNIST] if fashion and root is None else [])]
    with tempfile.TemporaryDirectory(prefix="relstab-") as temporary:
        unpacked = Path(temporary, class_name, "raw")
        unpacked.mkdir(parents=True)
        missing = []
        for packed_name, md5 in published.resources:
            name = packed_name.removesuffix(".gz")
            unpack = functools.partial(_unpack_idx, sha256=digests[name], md5=md5, target=unpacked / name)
            found = _first(
                path
                for path in (folder / either for folder in folders for either in (name, packed_name))
                if not (path.parent == base and _is_one_of(path, others))
            )
            if found is None:
                missing.append((raw / packed_name, [mirror + packed_name for mirror in published.mirrors], md5, unpack))
            else:
                _unpack_either(found.with_name(name), found.with_name(packed_name), unpack)
        hint = ", or install Debian's package dataset-fashion-mnist and leave data.root null" if fashion else ""
        files = ", ".join(packed_name for packed_name, _ in published.resources)
        _fetch(title, [(path, urls, md5) for path, urls, md5, _ in missing], files, folders, hint)
        for path, _, _, unpack in missing:
            unpack(path)
        parts: Parts = {}
        for part in ("train", "test"):
            read = published(temporary, train=part == "train", download=False)
            parts[part] = _as_part(read.data.numpy()[:, None], read.targets.numpy())
    return parts


def _is_one_of(path: Path, digests: dict[str, str]) -> bool:
    """Whether a plain or gzipped file is of the data set with these digests: files of both have the same names."""
    if not path.is_file():
        return False
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return hashlib.sha256(file.read(_LARGEST)).hexdigest() in digests.values()
    except (OSError, EOFError, zlib.error):
        return False


def _unpack_either(plain: Path, packed: Path, unpack: Callable[[Path], None]) -> None:
    """Use the plain file, or the gzipped one where that is missing or is damaged."""
    if not plain.exists():
        return unpack(packed)
    try:
        return unpack(plain)
    except ValueError as error:
        if not packed.exists():
            raise
        unpack(packed)
        print(f"{error}; {packed} is whole, and is used instead", file=sys.stderr)


PUBLISHED: dict[str, Callable[[Path | None, int], Parts]] = {
    "mnist": functools.partial(_mnist_like, "MNIST", "MNIST"),
    "fashionmnist": functools.partial(_mnist_like, "FashionMNIST", "Fashion-MNIST"),
    "cifar10": functools.partial(_cifar, "CIFAR10", "CIFAR-10"),
    "cifar100": functools.partial(_cifar, "CIFAR100", "CIFAR-100"),
    "svhn": _svhn,
}
"""Data sets by name: a function of a folder and a seed, which is not used. It returns, for "train" and for "test", images (uint8,
[N, C, n, n]) and labels (int64, [N]) in the order of the files.

The files are looked for in the folder, data/ where it is None, packed or unpacked; those that are missing are downloaded into it.
A function raises ValueError where a file is there and is not the published one, and FileNotFoundError where a file is not there
and cannot be downloaded.
"""
