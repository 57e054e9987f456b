"""The stages that measure saved networks: D, G and R of every layer, as trained and with shuffled channels."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from torch import nn

from relstab.channel_shuffle import shuffle_channels
from relstab.devices import choose_device
from relstab.files.activations import ActivationStore
from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5
from relstab.files.network import load_network
from relstab.layer_sums import LayerSums
from relstab.probes import read_probes
from relstab.seeding import derive_seed
from relstab.sensitivity import COLUMNS, accumulate_sums, sensitivity_rows

__all__ = ["measure_network", "measure_over_training", "measure_shuffled"]


def _write_sums(group: h5py.Group, sums: list[LayerSums]) -> None:
    """Table of one network, a data set a column, and per layer and image the sums that it was computed from."""
    rows = sensitivity_rows(sums)
    for column in COLUMNS:
        values = [row[column] for row in rows]
        group.create_dataset(column, data=values, dtype=h5py.string_dtype() if isinstance(values[0], str) else None)
    for name in ("diffeo", "noise", "spread"):
        group[f"sums/{name}"] = np.stack([getattr(layer, name) for layer in sums])


def _identity(network: str | Path) -> dict[str, Any]:
    with open_hdf5(network) as file:
        identity = {key: file.attrs[key] for key in ("dataset", "architecture", "noise", "seed")}
    return {key: value.item() if hasattr(value, "item") else value for key, value in identity.items()}


def _attributes(network: str | Path, probes: str | Path, parameters: Mapping[str, Any], device: str) -> dict[str, Any]:
    """What made a file of measurements: which network, its recipe, its probes, and how it was measured."""
    with open_hdf5(network) as trained, open_hdf5(probes) as perturbed:
        before = {"network_parameters": trained.attrs["parameters"], "probes_parameters": perturbed.attrs["parameters"]}
    return {**_identity(network), **before, **provenance(parameters, device=str(choose_device(device)))}


def _states(network: str | Path, weights: str, device: str) -> Iterator[tuple[str, nn.Module]]:
    place = choose_device(device)
    for state, saved in (("init", "init"), ("trained", weights)):
        yield state, load_network(network, saved).to(place)


def measure_network(
    path: str | Path,
    network: str | Path,
    probes: str | Path,
    weights: str = "last",
    keep_activations: Sequence[str] = (),
    batch_size: int | None = None,
    device: str = "auto",
) -> None:
    """Measure a saved network at initialization and after training.

    Args:
        path: of the HDF5 file to write: groups "init" and "trained", with the columns of the table of
            :func:`relstab.measure_sensitivity`; under "sums", what they were computed from; under "activations", the
            representations that are kept, see :class:`relstab.files.activations.ActivationStore`.
        network: file of :func:`relstab.save_network`.
        probes: file of :func:`relstab.probes.write_probes`.
        weights: which weights are the trained ones, "last" or "best".
        keep_activations: layers whose representations are kept, as shell patterns of their names; none by default.
        batch_size: images at a time, as in :func:`relstab.measure_sensitivity`.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """
    loaded = read_probes(probes)
    parameters = {"weights": weights, "keep_activations": list(keep_activations)}
    with write_hdf5(path, _attributes(network, probes, parameters, device)) as file:
        for state, model in _states(network, weights, device):
            print(f"{state}: {len(loaded)} probes")
            group = file.create_group(state)
            store = ActivationStore(group.create_group("activations"), keep_activations) if keep_activations else None
            _write_sums(group, accumulate_sums(model, loaded, batch_size=batch_size, store=store))
            if store is not None and store.unmatched:
                print(f"no layer is called {' or '.join(map(repr, store.unmatched))} (config.yaml: sensitivity.keep_activations)")


def measure_over_training(
    path: str | Path, network: str | Path, probes: str | Path, batch_size: int | None = None, device: str = "auto"
) -> None:
    """Measure the snapshots of a saved network, with its weights at initialization and after the last epoch.

    Args:
        path: of the HDF5 file to write: groups "0", "3", ..., "250", the epochs after which the weights were these; in each the
            columns of the table, and test error and training loss as attributes (at epoch 0 there are none).
        network, probes, batch_size, device: as in :func:`measure_network`.
    """
    loaded = read_probes(probes)
    place = choose_device(device)
    with open_hdf5(network) as file:
        epochs = [int(epoch) for epoch in file["history/epoch"][:]]
        history = {column: file[f"history/{column}"][:] for column in ("test_error", "train_loss")}
        snapshots = [int(epoch) for epoch in file.attrs["snapshots"]]
    states = {0: "init", **{epoch: f"epoch{epoch}" for epoch in snapshots}, epochs[-1]: "last"}
    with write_hdf5(path, _attributes(network, probes, {"snapshots": snapshots}, device)) as file:
        for epoch, state in states.items():
            print(f"epoch {epoch}: {len(loaded)} probes")
            group = file.create_group(str(epoch))
            if epoch:
                group.attrs.update({column: values[epochs.index(epoch)] for column, values in history.items()})
            _write_sums(group, accumulate_sums(load_network(network, state).to(place), loaded, batch_size=batch_size))


def measure_shuffled(
    path: str | Path,
    network: str | Path,
    probes: str | Path,
    shuffles: int,
    which: Literal["input", "both"] = "input",
    weights: str = "last",
    batch_size: int | None = None,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Measure a saved network with shuffled channels, ``shuffles`` times, at initialization and after training.

    A shuffle is drawn from the run's seed, the network and the number of the shuffle alone: more shuffles leave the first ones as
    they were.

    Args:
        path: of the HDF5 file to write: groups "init/0", "init/1", ..., "trained/0", ...
        network, probes, weights, batch_size, device: as in :func:`measure_network`.
        shuffles: how many.
        which: channels that are permuted, "input" or "both".
        seed: of the whole run.
    """
    if which not in ("input", "both"):
        raise ValueError(f"which is {which!r}: 'input' or 'both' is wanted")
    loaded = read_probes(probes)
    identity = _identity(network)
    parameters = {"weights": weights, "shuffles": shuffles, "which": which, "config_seed": seed}
    with write_hdf5(path, _attributes(network, probes, parameters, device)) as file:
        for state, model in _states(network, weights, device):
            for number in range(shuffles):
                print(f"{state}: shuffle {number + 1} of {shuffles}, {len(loaded)} probes")
                shuffled = shuffle_channels(model, which, derive_seed("shuffle", seed, *identity.values(), number))
                _write_sums(file.create_group(f"{state}/{number}"), accumulate_sums(shuffled, loaded, batch_size=batch_size))
