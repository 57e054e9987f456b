"""Keeping representations: images, their deformed and their noisy versions, layer by layer in HDF5, as they stream by."""

import fnmatch
from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from relstab.probes import VERSIONS

__all__ = ["ActivationStore"]

# Bytes of a chunk of narrow layers; of wider ones each image is a chunk. Images come in random order: small chunks are what is
# cheap to read, change and write again.
_CHUNK = 4096


class ActivationStore:
    """Writes batches of representations into an HDF5 group, chunked by image and compressed.

    Each layer becomes a group of its name, "NAME#2" for the second call of a module and so on, with attributes layer and kind and
    the data sets "images", "deformed" and "noisy", [P, ...] in the shape in which the layer gives them, in the probes' order.
    What several tensors make up is kept as one vector an image; bfloat16 and float16 are kept as float32.

    Args:
        group: open HDF5 group or file.
        patterns: which layers, as shell patterns of their names: "*" all, "features.*", "output".
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
        """Patterns that no layer so far has matched."""
        kept = {layer for layer, _, _ in self._names}
        return [pattern for pattern in self._patterns if not fnmatch.filter(kept, pattern)]

    def add(self, layer: str, kind: str, call: int, value: Tensor, rows: NDArray[np.int64]) -> None:
        """Write one batch.

        Args:
            layer, kind, call: whose: name, class, and which of the module's calls in one forward pass, from 1.
            value: [3 B, ...]: B images, then their deformed, then their noisy versions.
            rows: which of the probes these are, [B].
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
