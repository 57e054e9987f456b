"""Published data sets: found in a folder or downloaded into it, checked by their digests, and read by torchvision.

Only downloads write into the folder: archives are unpacked into a temporary one.
"""

import functools
import gzip
import hashlib
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relstab.data.download import DownloadError, check_digest, download
from relstab.files.dataset import PARTS, Images, Labels, Parts

__all__ = ["PUBLISHED", "SYSTEM_FASHION_MNIST"]

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder of the files of Debian's package dataset-fashion-mnist."""

_DEFAULT_ROOT = Path("data")
# Decompression stops at this many bytes; the largest of the files has 47,040,016.
_LARGEST = 1 << 26

# SHA-256 of the decompressed files: Debian gzipped them again, so that its digests are not those in torchvision.
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
    """Raise ValueError unless the file exists and is the published one."""
    if not path.exists():
        raise ValueError(f"{path} is missing: put a whole copy there, or delete {path.parent}")
    check_digest(path, "md5", md5)


def _fetch(
    title: str, missing: Sequence[tuple[Path, list[str], str]], files: str, folders: Sequence[Path], hint: str = ""
) -> None:
    """Download the missing files of a data set.

    Args:
        title: of the data set.
        missing: path, URLs and MD5 of each.
        files: names of all files of the data set, for the message.
        folders: where they were looked for, for the message.
        hint: what else the user can do, for the message.
    """
    try:
        for path, urls, md5 in missing:
            download(path, urls, "md5", md5)
    except DownloadError as error:
        raise FileNotFoundError(
            f"{title} is not in {' or '.join(map(str, folders))}, and downloading it failed ({error}): put {files} into "
            f"{folders[0]} (config.yaml: data.root){hint}"
        ) from error


def _as_part(images: Any, labels: Any) -> tuple[Images, Labels]:
    return np.ascontiguousarray(images, np.uint8), np.asarray(labels, np.int64).reshape(-1)


def _cifar(class_name: str, title: str, root: Path | None, _seed: int) -> Parts:
    """CIFAR-10 or CIFAR-100: in ``root``, unpacked or as an archive, or downloaded into it as an archive."""
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
            print(f"{error}; {archive} is used instead", file=sys.stderr)
        else:
            return _read_cifar(published, root, unpack=False)
    elif archive.exists():
        _check_file(archive, published.tgz_md5)
    else:
        files = f"{archive.name} (or its folder {unpacked.name})"
        _fetch(title, [(archive, [published.url], published.tgz_md5)], files, [root])
    with tempfile.TemporaryDirectory(prefix="relstab-") as temporary:
        # Torchvision finds the archive that it would download, and unpacks it there.
        Path(temporary, archive.name).symlink_to(archive.resolve())
        return _read_cifar(published, Path(temporary), unpack=True)


def _read_cifar(published: Any, root: Path, unpack: bool) -> Parts:
    parts: Parts = {}
    for part in PARTS:
        read = published(str(root.absolute()), train=part == "train", download=unpack)
        parts[part] = _as_part(read.data.transpose(0, 3, 1, 2), read.targets)
    return parts


def _svhn(root: Path | None, _seed: int) -> Parts:
    """Street View House Numbers, cropped digits: in ``root``, in its folder SVHN, or downloaded into ``root``."""
    from relstab.architectures.torchvision import torchvision

    published = torchvision.datasets.SVHN
    root = root or _DEFAULT_ROOT
    folders = [root, root / "SVHN"]
    paths, missing = {}, []
    for part in PARTS:
        url, name, md5 = published.split_list[part]
        paths[part] = _first(folder / name for folder in folders) or root / name
        if paths[part].exists():
            _check_file(paths[part], md5)
        else:
            missing.append((root / name, [url], md5))
    names = " and ".join(published.split_list[part][1] for part in PARTS)
    _fetch("SVHN", missing, names, folders)
    parts: Parts = {}
    for part, path in paths.items():
        read = published(str(path.parent.absolute()), split=part, download=False)
        parts[part] = _as_part(read.data, read.labels)
    return parts


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _unpack_idx(path: Path, sha256: str, target: Path) -> None:
    """Check a plain or gzipped IDX file and write its decompressed content to ``target``.

    Args:
        path: of the file.
        sha256: of its decompressed content.
        target: path of the decompressed file.
    """
    mend = "delete the file, or replace it with a whole copy"
    size = f"{path.stat().st_size:,} bytes"
    try:
        content = _read_idx(path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} ({size}): cannot be decompressed ({error}): {mend}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise ValueError(
            f"{path} ({size}, {len(content):,} decompressed): expected decompressed sha256 {sha256}, got {actual}: {mend}"
        )
    target.write_bytes(content)


def _read_idx(path: Path) -> bytes:
    """Content of a plain or gzipped file, at most :data:`_LARGEST` bytes."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read(_LARGEST)


def _mnist_like(class_name: str, title: str, root: Path | None, _seed: int) -> Parts:
    """MNIST or Fashion-MNIST: in torchvision's folder in ``root``, in ``root``, in the system, or downloaded into the first."""
    from relstab.architectures.torchvision import torchvision

    published = getattr(torchvision.datasets, class_name)
    fashion = class_name == "FashionMNIST"
    digests, others = (_FASHION_MNIST, _MNIST) if fashion else (_MNIST, _FASHION_MNIST)
    base = root or _DEFAULT_ROOT
    # The files of both data sets have the same names: downloads go to separate folders, which are searched first.
    raw = base / class_name / "raw"
    folders = [raw, base, *([SYSTEM_FASHION_MNIST] if fashion and root is None else [])]
    with tempfile.TemporaryDirectory(prefix="relstab-") as temporary:
        unpacked = Path(temporary, class_name, "raw")
        unpacked.mkdir(parents=True)
        missing = []
        for packed_name, md5 in published.resources:
            name = packed_name.removesuffix(".gz")
            unpack = functools.partial(_unpack_idx, sha256=digests[name], target=unpacked / name)
            present = _first(
                path
                for path in (folder / either for folder in folders for either in (name, packed_name))
                if not (path.parent == base and _is_one_of(path, others))
            )
            if present is None:
                missing.append((raw / packed_name, [mirror + packed_name for mirror in published.mirrors], md5, unpack))
            else:
                _unpack_either(present.with_name(name), present.with_name(packed_name), unpack)
        hint = ", or install Debian's package dataset-fashion-mnist and leave data.root null" if fashion else ""
        files = ", ".join(packed_name for packed_name, _ in published.resources)
        _fetch(title, [(path, urls, md5) for path, urls, md5, _ in missing], files, folders, hint)
        for path, _, _, unpack in missing:
            unpack(path)
        parts: Parts = {}
        for part in PARTS:
            read = published(temporary, train=part == "train", download=False)
            parts[part] = _as_part(read.data.numpy()[:, None], read.targets.numpy())
    return parts


def _is_one_of(path: Path, digests: dict[str, str]) -> bool:
    """Whether a plain or gzipped file belongs to the data set with these digests."""
    try:
        return path.is_file() and hashlib.sha256(_read_idx(path)).hexdigest() in digests.values()
    except (OSError, EOFError, zlib.error):
        return False


def _unpack_either(plain: Path, packed: Path, unpack: Callable[[Path], None]) -> None:
    """Use the plain file, or the gzipped one if the plain one is missing or damaged."""
    if not plain.exists():
        return unpack(packed)
    try:
        return unpack(plain)
    except ValueError as error:
        if not packed.exists():
            raise
        unpack(packed)
        print(f"{error}; {packed} is used instead", file=sys.stderr)


PUBLISHED: dict[str, Callable[[Path | None, int], Parts]] = {
    "mnist": functools.partial(_mnist_like, "MNIST", "MNIST"),
    "fashionmnist": functools.partial(_mnist_like, "FashionMNIST", "Fashion-MNIST"),
    "cifar10": functools.partial(_cifar, "CIFAR10", "CIFAR-10"),
    "cifar100": functools.partial(_cifar, "CIFAR100", "CIFAR-100"),
    "svhn": _svhn,
}
"""Data sets by name: a function of a folder (None for data/) and a seed, which is not used. It returns images (uint8,
[N, C, n, n]) and labels (int64, [N]) per part, in the order of the files.

It looks for the files in the folder, packed or unpacked, and downloads missing ones into it. It raises ValueError if a file is
not the published one, and FileNotFoundError if a missing file cannot be downloaded.
"""
