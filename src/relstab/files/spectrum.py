"""The file of filter spectra: eigenvalues and gamma of every convolution of one network.

The groups "init" and "trained" hold one group per layer, "000", "001", ... in the order of the network, with the layer's name and
depth as attributes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5
from relstab.files.network import KEYS, NetworkKey
from relstab.filter_spectra import LayerSpectrum

__all__ = ["read_spectra", "write_spectra"]

_COLUMNS = ["state", "layer", "index", "depth", "mode", "eigenvalue", "gamma"]


def write_spectra(
    path: str | Path, key: NetworkKey, spectra: Mapping[str, Sequence[LayerSpectrum]], parameters: Mapping[str, Any]
) -> None:
    """Write the spectra of one network to HDF5.

    Args:
        path: of the HDF5 file.
        key: of the network.
        spectra: by state, "init" and "trained", in the order of the layers.
        parameters: everything that they depend on besides the network.
    """
    with write_hdf5(path, {**provenance(parameters), **key.as_dict()}, "filter spectra") as file:
        for state, layers in spectra.items():
            for index, layer in enumerate(layers):
                group = file.create_group(f"{state}/{index:03d}")
                group.attrs.update({"layer": layer.layer, "depth": layer.depth})
                group["eigenvalue"], group["gamma"] = layer.eigenvalue, layer.gamma


def read_spectra(*paths: str | Path) -> pd.DataFrame:
    """Rows of gamma of some networks by state, layer and mode, both from 1."""
    rows, keys = [], KEYS
    for path in paths:
        with open_hdf5(path, "filter spectra") as file:
            key = NetworkKey.from_attributes(file.attrs).as_dict()
            keys = list(key)
            for state in ("init", "trained"):
                for index, group in enumerate(file.get(state, {}).values(), start=1):
                    head = [*key.values(), state, str(group.attrs["layer"]), index, float(group.attrs["depth"])]
                    pairs = zip(group["eigenvalue"][:], group["gamma"][:], strict=True)
                    rows += [[*head, mode, *pair] for mode, pair in enumerate(pairs, start=1)]
    return pd.DataFrame(rows, columns=[*keys, *_COLUMNS])
