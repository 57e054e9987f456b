import functools
import gzip
import hashlib
import io
import pickle
import re
import struct
import tarfile

import numpy as np
import pytest
import scipy.io

from relstab.architectures.torchvision import torchvision
from relstab.data import published as published_datasets
from relstab.data.download import download
from relstab.data.published import PUBLISHED, SYSTEM_FASHION_MNIST

from helpers import Server, closed_url

COUNTS = {"train": 12, "test": 7}


def md5(content):
    return hashlib.md5(content).hexdigest()


def idx(array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


class SmallSet:
    """A published data set of few images, in its true format.

    Attributes:
        name: in ``PUBLISHED``.
        parts: its images and labels.
        packed: contents of the published files by name.
        unpacked: contents of the unpacked files by their paths in the folder of data sets.
    """

    def __init__(self, name, classes, channels, size):
        rng = np.random.default_rng(list(name.encode()))
        self.name, self.packed, self.unpacked = name, {}, {}
        self.parts = {
            part: (rng.integers(0, 256, (count, channels, size, size), np.uint8), rng.permutation(np.arange(count) % classes))
            for part, count in COUNTS.items()
        }

    def put(self, root, form):
        """Write the packed or unpacked files into a folder."""
        for name, content in (self.packed if form == "packed" else self.unpacked).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    def read(self, root):
        return PUBLISHED[self.name](root, 0)

    def assert_read(self, root):
        parts = self.read(root)
        assert list(parts) == ["train", "test"]
        for part, (images, labels) in parts.items():
            assert images.dtype == np.uint8
            assert labels.dtype == np.int64
            assert np.array_equal(images, self.parts[part][0])
            assert np.array_equal(labels, self.parts[part][1])


def make_cifar(monkeypatch, server, name):
    """CIFAR-10 in five training batches, CIFAR-100 in one, with coarse labels beside the fine ones."""
    ten = name == "cifar10"
    published = torchvision.datasets.CIFAR10 if ten else torchvision.datasets.CIFAR100
    small = SmallSet(name, 10 if ten else 100, 3, 32)
    contents = {}
    for part, files in (("train", published.train_list), ("test", published.test_list)):
        images, labels = small.parts[part]
        for (file, _), rows in zip(files, np.array_split(np.arange(len(images)), len(files)), strict=True):
            key = "labels" if ten else "fine_labels"
            batch = {"data": images[rows].reshape(len(rows), -1), key: labels[rows].tolist()}
            if not ten:
                batch["coarse_labels"] = [0] * len(rows)
            contents[file] = pickle.dumps(batch, protocol=2)
    contents[published.meta["filename"]] = pickle.dumps({published.meta["key"]: [f"class {i}" for i in range(100)]}, protocol=2)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for file, content in contents.items():
            entry = tarfile.TarInfo(f"{published.base_folder}/{file}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    small.packed = {published.filename: packed.getvalue()}
    small.unpacked = {f"{published.base_folder}/{file}": content for file, content in contents.items()}
    for attribute in ("train_list", "test_list"):
        known = [[file, md5(contents[file])] for file, _ in getattr(published, attribute)]
        monkeypatch.setattr(published, attribute, known)
    monkeypatch.setattr(published, "meta", {**published.meta, "md5": md5(contents[published.meta["filename"]])})
    monkeypatch.setattr(published, "url", f"{server.url}/{published.filename}")
    monkeypatch.setattr(published, "tgz_md5", md5(packed.getvalue()))
    return small


def make_svhn(monkeypatch, server, name):
    published = torchvision.datasets.SVHN
    small = SmallSet(name, 10, 3, 32)
    known = {}
    for part, (images, labels) in small.parts.items():
        file = io.BytesIO()
        # Published with 1 to 10 for the digits, where 10 is a zero.
        scipy.io.savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        filename = published.split_list[part][1]
        small.packed[filename] = file.getvalue()
        known[part] = [f"{server.url}/{filename}", filename, md5(file.getvalue())]
    small.unpacked = {f"SVHN/{filename}": content for filename, content in small.packed.items()}
    monkeypatch.setattr(published, "split_list", known)
    return small


def make_mnist_like(monkeypatch, server, name):
    class_name = {"mnist": "MNIST", "fashionmnist": "FashionMNIST"}[name]
    published = getattr(torchvision.datasets, class_name)
    small = SmallSet(name, 10, 1, 28)
    contents = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = small.parts[part]
        contents |= {f"{prefix}-images-idx3-ubyte": idx(images[:, 0]), f"{prefix}-labels-idx1-ubyte": idx(labels)}
    small.packed = {f"{file}.gz": gzip.compress(content, mtime=0) for file, content in contents.items()}
    small.unpacked = {f"{class_name}/raw/{file}": content for file, content in contents.items()}
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setattr(published_datasets, "_FASHION_MNIST" if name == "fashionmnist" else "_MNIST", digests)
    monkeypatch.setattr(published_datasets, "SYSTEM_FASHION_MNIST", published_datasets.Path("/nowhere/at/all"))
    monkeypatch.setattr(published, "mirrors", [f"{server.url}/"])
    monkeypatch.setattr(published, "resources", [(file, md5(content)) for file, content in small.packed.items()])
    return small


MAKERS = {
    "mnist": make_mnist_like,
    "fashionmnist": make_mnist_like,
    "cifar10": make_cifar,
    "cifar100": make_cifar,
    "svhn": make_svhn,
}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(published_datasets, "download", functools.partial(download, attempts=2, wait=0.01))
    with Server() as running:
        yield running


@pytest.fixture
def make(monkeypatch, server):
    """Replace a published data set by a small one, and serve its files."""

    def make_small(name):
        small = MAKERS[name](monkeypatch, server, name)
        server.files |= {f"/{file}": content for file, content in small.packed.items()}
        return small

    return make_small


@pytest.fixture(params=sorted(MAKERS))
def small(request, make):
    return make(request.param)


def tree(folder):
    """Content and time of the last change of everything in a folder."""
    files = [folder, *folder.rglob("*")]
    return {file: (file.stat().st_mtime_ns, None if file.is_dir() else file.read_bytes()) for file in files}


def files_below(folder):
    """Names of the files in a folder, but for those of the locks of downloads."""
    return {file.name for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"}


def test_all_data_sets_are_known():
    assert set(PUBLISHED) == set(MAKERS)


@pytest.mark.parametrize("form", ["packed", "unpacked"])
def test_pixels_and_labels_are_read_from_a_folder_that_is_not_written_to(small, server, tmp_path, form):
    root = tmp_path / "data"
    small.put(root, form)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    before = tree(root)
    small.assert_read(root)
    assert tree(root) == before
    assert server.requests == []


def test_what_is_missing_is_downloaded_once(small, server, tmp_path):
    root = tmp_path / "data"
    small.assert_read(root)
    small.assert_read(root)
    assert sorted(server.requests) == sorted(f"/{name}" for name in small.packed)
    assert files_below(root) == set(small.packed)


def test_without_a_folder_the_files_are_in_data(small, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.put(tmp_path / "data", "packed")
    small.assert_read(None)
    small.put(tmp_path / "other", "packed")
    small.assert_read(published_datasets.Path("other"))
    assert server.requests == []


def test_wrong_bytes_from_a_server_are_not_used(small, server, tmp_path):
    server.files = dict.fromkeys(server.files, b"wrong")
    with pytest.raises(FileNotFoundError, match=rf"expected md5 \w{{32}}, got {md5(b'wrong')} \(5 bytes\).*data\.root"):
        small.read(tmp_path / "data")
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize("form", ["packed", "unpacked"])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_named_and_neither_used_nor_replaced(small, server, tmp_path, form, damage):
    """Each file in turn."""
    files = small.packed if form == "packed" else small.unpacked
    for number, (name, whole) in enumerate(files.items()):
        root = tmp_path / str(number)
        small.put(root, form)
        middle = len(whole) // 2
        bad = {
            "cut": whole[:middle],
            "changed": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
            "empty": b"",
        }
        (root / name).write_bytes(bad[damage])
        with pytest.raises(ValueError, match=r"expected|decompressed") as caught:
            small.read(root)
        message = str(caught.value)
        assert re.match(rf"{re.escape(str(root / name))}[ :]", message)
        assert message.endswith(": delete the file, or replace it with a whole copy")
        assert "\n" not in message
        assert f"{len(bad[damage]):,} bytes" in message
        if "cannot be decompressed" not in message:
            assert any(digest in message for digest in digests_of(small, name, whole))
        assert (root / name).read_bytes() == bad[damage]
    assert server.requests == []


def test_a_damaged_gzipped_file_is_named(make, server, tmp_path):
    small = make("mnist")
    small.put(tmp_path, "packed")
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[10] = 0xFF  # the header of the first block: an undefined type
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} \(.* bytes\): cannot be decompressed \(.*invalid block type\): delete"):
        small.read(tmp_path)
    assert server.requests == []


def digests_of(small, name, whole):
    content = small.unpacked.get(f"{'MNIST' if small.name == 'mnist' else 'FashionMNIST'}/raw/{name.removesuffix('.gz')}", whole)
    return md5(whole), hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_whole_archive_replaces_a_damaged_folder(make, server, tmp_path, capsys, name, damage):
    small = make(name)
    small.put(tmp_path, "packed")
    small.put(tmp_path, "unpacked")
    broken = tmp_path / list(small.unpacked)[-2]
    broken.unlink() if damage == "missing" else broken.write_bytes(b"damaged")
    before = tree(tmp_path)
    small.assert_read(tmp_path)
    (archive,) = small.packed
    fault = " is missing" if damage == "missing" else ": expected md5 "
    assert re.search(
        rf"^{re.escape(f'{broken}{fault}')}.*; {re.escape(str(tmp_path / archive))} is used instead$",
        capsys.readouterr().err,
        re.MULTILINE,
    )
    assert tree(tmp_path) == before
    (tmp_path / archive).write_bytes(b"damaged too")
    with pytest.raises(ValueError, match=rf"{archive}: expected md5 .* \(11 bytes\)"):
        small.read(tmp_path)
    assert server.requests == []


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_incomplete_folder_is_named(make, server, tmp_path, name):
    small = make(name)
    small.put(tmp_path, "unpacked")
    missing = tmp_path / list(small.unpacked)[1]
    missing.unlink()
    with pytest.raises(ValueError, match=rf"{missing} is missing: put a whole copy there, or delete {missing.parent}"):
        small.read(tmp_path)
    assert server.requests == []


@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_a_whole_gzipped_file_replaces_a_damaged_plain_one(make, server, tmp_path, capsys, name):
    small = make(name)
    small.put(tmp_path, "packed")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"half")
    small.assert_read(tmp_path)
    assert "t10k-images-idx3-ubyte.gz is used instead" in capsys.readouterr().err
    assert server.requests == []


@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_files_may_lie_in_either_folder_in_either_form(make, server, tmp_path, name):
    small = make(name)
    places = [small.unpacked, small.packed]
    for number, file in enumerate(small.packed):
        if number == 3:
            break  # and the last one is downloaded
        (path,) = (path for path in places[number % 2] if file.removesuffix(".gz") in path)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(places[number % 2][path])
    small.assert_read(tmp_path)
    assert server.requests == [f"/{file}"]


def test_mnist_and_fashion_mnist_are_told_apart_though_their_files_share_names(make, server, tmp_path):
    both = [make("mnist"), make("fashionmnist")]
    both[0].put(tmp_path, "unpacked")
    both[1].put(tmp_path, "unpacked")
    both[1].put(tmp_path, "packed")
    for small in both:
        small.assert_read(tmp_path)
    # The file of the other data set does not replace the missing one, nor is it an error.
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").unlink()
    server.files["/train-images-idx3-ubyte.gz"] = both[0].packed["train-images-idx3-ubyte.gz"]
    both[0].assert_read(tmp_path)
    assert server.requests == ["/train-images-idx3-ubyte.gz"]
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").unlink()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"neither"))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz .*: expected decompressed sha256"):
        both[0].read(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(2 * published_datasets._LARGEST)))
    with pytest.raises(ValueError, match=rf"{published_datasets._LARGEST:,} decompressed"):
        both[0].read(tmp_path)


def test_fashion_mnist_of_the_system_is_used_where_no_folder_is_given(make, server, tmp_path, monkeypatch):
    """Debian compressed the files again: other archives of the same content."""
    small = make("fashionmnist")
    system = tmp_path / "system"
    small.packed = {name: gzip.compress(gzip.decompress(content), 1, mtime=9) for name, content in small.packed.items()}
    small.put(system, "packed")
    monkeypatch.setattr(published_datasets, "SYSTEM_FASHION_MNIST", system)
    monkeypatch.chdir(tmp_path)
    small.assert_read(None)
    assert server.requests == []
    assert [file.name for file in tmp_path.iterdir()] == ["system"]
    small.assert_read(tmp_path / "data")
    assert len(server.requests) == 4


FILES = {
    "mnist": "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz",
    "cifar10": "cifar-10-python.tar.gz (or its folder cifar-10-batches-py)",
    "cifar100": "cifar-100-python.tar.gz (or its folder cifar-100-python)",
    "svhn": "train_32x32.mat and test_32x32.mat",
}
TITLES = {"mnist": "MNIST", "fashionmnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"}


def test_without_a_network_the_message_says_what_to_put_where(small, server, tmp_path, monkeypatch):
    nobody = closed_url()
    monkeypatch.setattr(server, "url", nobody)
    MAKERS[small.name](monkeypatch, server, small.name)
    with pytest.raises(FileNotFoundError) as caught:
        small.read(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{TITLES[small.name]} is not in ")
    assert f" {tmp_path}" in message
    assert f"downloading it failed ({tmp_path}" in message
    assert f"{nobody}/" in message
    assert "refused" in message
    files = FILES["mnist" if small.name == "fashionmnist" else small.name]
    assert re.search(rf"\): put {re.escape(files)} into \S.*\(config\.yaml: data\.root\)", message)
    assert ("dataset-fashion-mnist" in message) == (small.name == "fashionmnist")
    assert files_below(tmp_path) == set()


@pytest.mark.skipif(not SYSTEM_FASHION_MNIST.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_digests_of_fashion_mnist_are_those_of_the_system():
    assert {
        name: hashlib.sha256(gzip.decompress((SYSTEM_FASHION_MNIST / f"{name}.gz").read_bytes())).hexdigest()
        for name in published_datasets._FASHION_MNIST
    } == published_datasets._FASHION_MNIST
