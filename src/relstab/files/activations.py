"""Representations of the probes, layer by layer, in HDF5."""

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from relstab.files.hdf5 import provenance, write_hdf5
from relstab.probes import VERSIONS, Probes
from relstab.sensitivity import measure_sensitivity as _measure_sensitivity

__all__ = ["ActivationStore", "measure_sensitivity", "write_activations"]

if TYPE_CHECKING:
    import pandas as pd

# Bytes per chunk of narrow layers; each image of a wider layer is one chunk. Images arrive in random order, and small chunks are
# cheap to read, change and write again.
_CHUNK = 4096


class ActivationStore:
    """Writes batches of representations into an HDF5 group, chunked by image and compressed.

    Each layer becomes a group with its name ("NAME#2" for the second call of a module and so on), with attributes layer and kind
    and the data sets "images", "deformed" and "noisy", [P, ...] in the shape that the layer returns and in the order of the
    probes. A layer that returns several tensors is stored as one vector per image; bfloat16 and float16 are stored as float32.

    Args:
        group: open HDF5 group or file.
        patterns: shell patterns of the names of the layers to keep: "*" for all, "features.*", "output".
    """

    def __init__(self, group: h5py.Group, patterns: Sequence[str]) -> None:
        self._group = group
        self._patterns = list(patterns)
        self._names: dict[tuple[str, str, int], str] = {}

    def wants(self, layer: str) -> bool:
        """Whether a layer of this name is kept."""
        return any(fnmatch.fnmatchcase(layer, pattern) for pattern in self._patterns)

    @property
    def unmatched(self) -> list[str]:
        """Patterns that have matched no layer yet."""
        layers = {layer for layer, _, _ in self._names}
        return [pattern for pattern in self._patterns if not fnmatch.filter(layers, pattern)]

    def add(self, layer: str, kind: str, call: int, value: Tensor, rows: NDArray[np.int64]) -> None:
        """Write one batch.

        Args:
            layer: name of the module.
            kind: its class.
            call: number of the module's call within one forward pass, from 1.
            value: [3 B, ...]: B images, then their deformed, then their noisy versions.
            rows: positions of these images among the probes, [B].
        """
        key = (layer, kind, call)
        if key not in self._names:
            used = sum(name == layer for name, _, _ in self._names)
            self._names[key] = f"{layer}#{used + 1}" if used else layer
            self._create(self._names[key], layer, kind, value)
        order = np.argsort(rows)
        wide = value if value.dtype.itemsize >= 4 else value.float()
        for version, part in zip(VERSIONS, wide.cpu().numpy().reshape(3, len(rows), *value.shape[1:]), strict=True):
            data = self._group[self._names[key]][version]
            if len(data) <= rows.max():
                data.resize(int(rows.max()) + 1, axis=0)
            data[rows[order]] = part[order]

    def _create(self, name: str, layer: str, kind: str, value: Tensor) -> None:
        group = self._group.create_group(name)
        group.attrs.update({"layer": layer, "kind": kind})
        shape = tuple(value.shape[1:])
        itemsize = max(value.dtype.itemsize, 4)
        images = max(1, _CHUNK // max(1, itemsize * value[0].numel()))
        for version in VERSIONS:
            group.create_dataset(
                version,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(images, *shape),
                dtype=f"f{itemsize}",
                compression="gzip",
                compression_opts=1,  # the next levels cost several times the time for a few percent of the bytes
                shuffle=True,
            )


@contextlib.contextmanager
def write_activations(path: str | Path, patterns: Sequence[str], layers: str | Sequence[str] | None) -> Iterator[ActivationStore]:
    """New HDF5 file of representations, written atomically.

    Args:
        path: of the HDF5 file.
        patterns: of the layers to keep, see :class:`ActivationStore`.
        layers: names of the measured layers; None for all.

    Raises:
        ValueError: a pattern matched no measured layer; no file is left.
    """
    parameters = {"keep_layers": list(patterns), "layers": [layers] if isinstance(layers, str) else layers and list(layers)}
    with write_hdf5(path, provenance(parameters), "activations") as file:
        store = ActivationStore(file, patterns)
        yield store
        if store.unmatched:
            raise ValueError(
                f"expected keep_layers to hold patterns of the names of measured layers, got {store.unmatched[0]!r}, which "
                f"matches none"
            )


def measure_sensitivity(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    *,
    keep_activations: str | Path | None = None,
    keep_layers: Sequence[str] = ("*",),
    **options: Any,
) -> "pd.DataFrame":
    """Measure D, G and R of every layer of a network, and write representations to a file if one is named.

    Args:
        model, probes, layers, batch_size: see :func:`relstab.sensitivity.measure_sensitivity`, which also says what is returned.
        keep_activations: HDF5 file for the representations, see :class:`ActivationStore`; written atomically. By
            default no file is written.
        keep_layers: shell patterns of the names of the measured layers to keep; all by default.
        options: the other arguments of :func:`relstab.sensitivity.measure_sensitivity`.
    """
    if keep_activations is None:
        return _measure_sensitivity(model, probes, layers, batch_size, **options)
    with write_activations(keep_activations, keep_layers, layers) as store:
        return _measure_sensitivity(model, probes, layers, batch_size, store=store, **options)
