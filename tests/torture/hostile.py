"""Files that were made to do harm or to be misread, and files of other programs that were damaged."""

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from relstab.architectures.torchvision_networks import read_weights
from relstab.config import check_text
from relstab.data.image_folder import ImageProblem, list_folder, read_image
from relstab.tables.networks import read_table

from torture.count import Count, damaged

__all__ = ["hostile_files"]


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _images(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of what is no image of 8 x 8 pixels."""
    yield (
        "bomb.png",
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 10**5, 10**5, 8, 0, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(bytes(10**6))),
    )
    yield "script.png", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/tmp/x) (w) file\n"
    yield "gif.png", b"GIF89a\x08\x00\x08\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x00"
    yield "empty.jpg", b""
    yield "png.jpg", whole
    yield "text.bmp", b"BM" + bytes(60)


def _texts() -> Iterator[tuple[str, bytes]]:
    """Configs that no parser should take, or not as they look."""
    yield (
        "laughs.yaml",
        b"a: &a [1]\n"
        + b"".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n".encode() for n in range(20))
        + b"noise: *u\n",
    )
    yield "deep.yaml", b"x: " + b"[" * 20_000
    yield "python.yaml", b"seed: !!python/object/apply:os.system ['true']\n"
    yield "nul.yaml", b"seed: 1\0\n"
    yield "utf16.yaml", "seed: 1\n".encode("utf-16")
    yield "latin.yaml", b"results: caf\xe9\n"
    yield "sexagesimal.yaml", b"seed: 1:30\n"


def _refused(read: Callable[[], object], path: Path) -> Callable[[], object]:
    """The reader, whose errors on images say no name, since the caller does."""

    def attempt() -> object:
        try:
            return read()
        except ImageProblem as problem:
            raise ValueError(f"{path}: {problem}") from None

    return attempt


def hostile_files(folder: Path, count: Count, moments: random.Random, number: int) -> None:
    folder.mkdir()
    picture = folder / "a.png"
    pixels = np.frombuffer(moments.randbytes(64), np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(picture)
    whole = picture.read_bytes()
    for name, content in _images(whole):
        path = folder / name
        path.write_bytes(content)
        count.attempt("hostile image", name, _refused(lambda path=path: read_image(path, 1, 8), path), False)
    (folder / "itself.png").symlink_to(folder / "itself.png")
    os.mkfifo(folder / "pipe.png")
    for name in ("itself.png", "pipe.png"):
        path = folder / name
        count.attempt("hostile image", name, _refused(lambda path=path: read_image(path, 1, 8), path), False)
    for fault, other in damaged(whole, moments, number):
        picture.write_bytes(other)
        try:
            same = np.array_equal(read_image(picture, 1, 8)[0], pixels)
        except ImageProblem:
            same = False
        count.attempt(f"PNG: {fault}", picture.name, _refused(lambda: read_image(picture, 1, 8), picture), same)
    for name, content in _texts():
        path = folder / name
        path.write_bytes(content)
        count.attempt("hostile config", name, lambda path=path: check_text(path), False)
    break_weights(folder, count, moments, number)
    for name, content in {
        "binary.csv": b"\x89HDF\r\n\x1a\n\0",
        "ragged.csv": b"a,b\n1,2,3,4\n5\n",
        "cut.csv": b"noise,seed\n0,",
        "none.csv": b"",
    }.items():
        path = folder / name
        path.write_bytes(content)
        count.attempt("hostile table", name, lambda path=path: read_table(path), False)
    root = folder / "images"
    for part in ("train", "test"):
        (root / part / "one").mkdir(parents=True)
        (root / part / "one" / "a.png").write_bytes(whole)
    for name, target in (("loop", root), ("above", folder), ("test", root / "test/one")):
        link = root / "train/one" / name
        link.symlink_to(target)

        def listed() -> None:
            problems = list_folder(root).problems
            if problems:
                raise ValueError(f"{problems[0]}: {len(problems)} problems")

        count.attempt("link in a class", name, listed, False)
        link.unlink()


def break_weights(folder: Path, count: Count, moments: random.Random, number: int) -> None:
    """A file of weights runs nothing, and is whole."""
    path, ran = folder / "weights.pth", folder / "ran"
    torch.save({"a": Shell(ran)}, path)
    count.attempt("hostile weights", path.name, lambda: read_weights(path, "resnet18"), False)
    if ran.exists():
        count.wrong.append("hostile weights: the file ran a command")
    state = {"a": torch.arange(500.0), "b": torch.ones(3, 4)}
    torch.save(state, path)
    whole = path.read_bytes()

    def same() -> bool:
        try:
            read = read_weights(path, "resnet18")
        except ValueError:
            return False
        return read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)

    for fault, other in damaged(whole, moments, number):
        path.write_bytes(other)
        count.attempt(f"weights: {fault}", path.name, lambda: read_weights(path, "resnet18"), same())
