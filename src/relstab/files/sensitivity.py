"""The file of sensitivities: D, G and R of every layer of one network, and the sums behind them.

A measurement is a group with one data set per column of the table and, under "sums", the sums per layer and image. Its name says
what was measured:

- "init", "init_frozen" and "trained": the network as it is;
- "init/0/stale", "init/0/recalibrated", ..., "trained/0/stale", ...: its shuffles, by the statistics of batch norm;
- "0", "3", ..., "250": its snapshots after these epochs, with test error and training loss as attributes;
- "init/0", "init/1", ..., "init_frozen/0", ..., "trained/0", ...: its sweep over diffeomorphisms, with displacement and cutoff
  as attributes.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from relstab.files.hdf5 import open_hdf5, provenance, read_attributes, write_hdf5
from relstab.files.network import KEYS, NetworkKey, noise_level
from relstab.sensitivity_table import COLUMNS, LayerSums, sensitivity_rows

if TYPE_CHECKING:
    from relstab.files.activations import ActivationStore

__all__ = ["SensitivityFile", "read_over_training", "read_sensitivity", "read_sweep", "write_sensitivity"]

_TEXT = {"layer", "kind"}
_UNSHUFFLED = {"init": "per_version", "init_frozen": "running", "trained": "running"}
STATES = list(_UNSHUFFLED)


class SensitivityFile:
    """An open file to which measurements are added."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def add(self, name: str, sums: Sequence[LayerSums], attributes: Mapping[str, float] | None = None) -> None:
        """Write one measurement.

        Args:
            name: of its group.
            sums: from :func:`relstab.sensitivity.accumulate_sums`.
            attributes: of the group.
        """
        group = self._file.require_group(name)
        group.attrs.update(attributes or {})
        rows = sensitivity_rows(sums)
        for column in COLUMNS:
            dtype = h5py.string_dtype() if column in _TEXT else None
            group.create_dataset(column, data=[row[column] for row in rows], dtype=dtype)
        for part in ("diffeo", "noise", "spread"):
            group[f"sums/{part}"] = np.stack([getattr(layer, part) for layer in sums])

    def add_link(self, name: str, other: str) -> None:
        """Give a measurement a second name: "init_frozen" and "init" of a network without batch norm are the same."""
        self._file[name] = self._file[other]

    def activation_store(self, name: str, patterns: Sequence[str]) -> "ActivationStore | None":
        """Store for the representations of one measurement, under "activations" in its group; None without patterns."""
        from relstab.files.activations import ActivationStore  # here, because it loads torch

        return ActivationStore(self._file.create_group(f"{name}/activations"), patterns) if patterns else None


def _check_same_run(network: str | Path, of_network: Mapping[str, Any], probes: str | Path, of_probes: Mapping[str, Any]) -> None:
    """Refuse probes of another data set, noise level or run than those of the network; clean ones are for every level."""
    pairs = {
        "the data set": (of_network["dataset"], of_probes["name"]),
        "the noise level": (noise_level(of_network["noise"]), noise_level(of_probes.get("sigma", 0))),
        "the seed of the run": (json.loads(of_network.get("parameters", "{}")).get("config_seed"), of_probes.get("seed")),
    }
    for what, (expected, given) in pairs.items():
        if None not in (expected, given) and given != expected and not (what == "the noise level" and given == 0):
            raise ValueError(f"expected probes of {what} of {network}, which is {expected}, got {probes}, whose is {given}")


@contextlib.contextmanager
def write_sensitivity(
    path: str | Path, network: str | Path, probes: str | Path, parameters: Mapping[str, Any], device: str, kind: str = "probes"
) -> Iterator[SensitivityFile]:
    """New file of sensitivities, written atomically.

    Its attributes are the key of the network, the parameters of the files of the network and the probes, and the provenance.

    Args:
        path: of the HDF5 file.
        network, probes: files from which the measurement is made.
        parameters: of the measurement.
        device: on which it is made.
        kind: of the file ``probes``; a sweep makes its probes itself, from noisy test images.
    """
    network_attributes, probes_attributes = read_attributes(network, "network"), read_attributes(probes, kind)
    _check_same_run(network, network_attributes, probes, probes_attributes)
    attributes = {
        **NetworkKey.from_attributes(network_attributes).as_dict(),
        "network_parameters": network_attributes["parameters"],
        "probes_parameters": probes_attributes["parameters"],
        **provenance(parameters, device=device),
    }
    with write_hdf5(path, attributes, "sensitivities") as file:
        yield SensitivityFile(file)


def _rows(group: h5py.Group, keys: Mapping[str, Any]) -> pd.DataFrame:
    """Table of one measurement, its keys first."""
    columns = {name: group[name].asstr()[:] if name in _TEXT else group[name][:] for name in COLUMNS}
    table = pd.DataFrame(columns).assign(**keys)
    return table[[*keys, *COLUMNS]]


def read_sensitivity(path: str | Path) -> pd.DataFrame:
    """Rows of one network by state, shuffle and statistics of batch norm.

    Without a shuffle, shuffle is "none" and statistics are "per_version" (state init) or "running". With one, shuffle is its
    number and statistics are "stale", those of the network before the shuffle, or "recalibrated".
    """
    parts = []
    with open_hdf5(path, "sensitivities") as file:
        key = NetworkKey.from_attributes(file.attrs).as_dict()
        for state in sorted(file, key=STATES.index):
            group = file[state]
            if "layer" in group:
                parts.append(_rows(group, {**key, "state": state, "shuffle": "none", "statistics": _UNSHUFFLED[state]}))
                continue
            for number in sorted(group, key=int):
                for statistics in ("stale", "recalibrated"):
                    keys = {**key, "state": state, "shuffle": number, "statistics": statistics}
                    parts.append(_rows(group[number][statistics], keys))
    columns = [*KEYS, "state", "shuffle", "statistics", *COLUMNS]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def read_over_training(path: str | Path) -> pd.DataFrame:
    """Rows of one network by epoch; epoch 0 is the initialization, whose test error and training loss are NaN."""
    with open_hdf5(path, "sensitivities") as file:
        key = NetworkKey.from_attributes(file.attrs).as_dict()
        parts = []
        for epoch in sorted(file, key=int):
            scores = {name: float(file[epoch].attrs.get(name, np.nan)) for name in ("test_error", "train_loss")}
            parts.append(_rows(file[epoch], {**key, "epoch": int(epoch), **scores}))
    return pd.concat(parts, ignore_index=True)


def read_sweep(path: str | Path) -> pd.DataFrame:
    """Rows of the input and the output of one network by state, displacement and cutoff."""
    parts = []
    with open_hdf5(path, "sensitivities") as file:
        key = NetworkKey.from_attributes(file.attrs).as_dict()
        for state, measurements in file.items():
            for number in sorted(measurements, key=int):
                rows = measurements[number]
                pair = {"displacement": float(rows.attrs["displacement"]), "cutoff": int(rows.attrs["cutoff"])}
                parts.append(_rows(rows, {**key, "state": state, **pair}))
    return pd.concat(parts, ignore_index=True)
