"""What an HDF5 file of a run is, in words."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from relstab.files.hdf5 import open_hdf5, read_kind

__all__ = ["describe_file", "origin_of"]

# What files are, by the kind at their head; a kind that is not here speaks for itself.
_WORDS = {
    "network": "network: its weights at initialization, at best and at the end",
    "probes": "probes: images, their deformations, and noise of the same norm",
    "sensitivities": "sensitivities D, G and R of the layers of a network",
    "filter spectra": "filter spectra gamma of the convolutions of a network",
    "images": "images for networks that are pretrained on ImageNet",
    "ensemble": "ensemble: the weights of simple CNNs of one experiment, all seeds",
    "rows": "D, G, R and receptive fields of the layers of simple CNNs",
    "": "file of no kind",
}
_ORIGIN = ("relstab_version", "git_commit", "code", "torch_version", "python_version", "device", "seed")


def _contents(group: h5py.Group, depth: int = 0) -> Iterator[str]:
    for name, item in list(group.items())[:40]:
        indent = "  " * (depth + 1)
        if isinstance(item, h5py.Group):
            yield f"{indent}{name}/ ({len(item)})"
            if depth < 1:
                yield from list(_contents(item, depth + 1))[:12]
        else:
            yield f"{indent}{name}  {list(item.shape)} {item.dtype}"


def _values(attributes: Mapping[str, Any]) -> Iterator[str]:
    for name, value in attributes.items():
        text = " ".join(str(value).split())
        yield f"  {name}: {text[:97] + '...' if len(text) > 100 else text}"


def origin_of(path: str | Path) -> dict[str, str]:
    """Kind of an HDF5 file and what made it: versions of relstab, torch and Python, commit, device, seed."""
    with open_hdf5(path) as file:
        origin = {name: str(file.attrs[name]) for name in _ORIGIN if name in file.attrs}
    return {"kind": read_kind(path), **origin}


def describe_file(path: str | Path) -> Iterator[str]:
    """Lines that say what an HDF5 file is, which parameters and which code made it, and what it holds.

    Raises:
        OSError: the file is not a readable HDF5 file.
    """
    with open_hdf5(path) as file:
        attributes = dict(file.attrs)
        kind = read_kind(path)
        yield f"{path}: {_WORDS.get(kind, kind)}"
        identity = {name: value for name, value in attributes.items() if name not in _ORIGIN and "parameters" not in name}
        if identity:
            yield "what it is"
            yield from _values(identity)
        if any(name in attributes for name in _ORIGIN):
            yield "where it came from"
            yield from _values({name: attributes[name] for name in _ORIGIN if name in attributes})
        if "parameters" in attributes:
            yield "parameters"
            yield from _values(json.loads(attributes["parameters"]))
        yield "what it holds"
        yield from _contents(file)
