"""Tidy tables of all networks of a run, collected from the files of the stages.

A table has a row for each thing that was measured and a column for each of its keys; figures are drawn from tables alone.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from relstab.correlation import bootstrap_log_correlation, log_correlation
from relstab.files.hdf5 import open_hdf5
from relstab.files.network import KEYS, NetworkKey
from relstab.seeding import derive_seed

__all__ = [
    "KEYS",
    "correlation_table",
    "error_above_zero",
    "network_table",
    "of_learned",
    "over_training_table",
    "output_sensitivities",
    "read_tables",
    "sensitivity_table",
    "spectrum_table",
]

Paths = Iterable[str | Path]


def _keys(attributes: Any) -> dict[str, Any]:
    return NetworkKey.from_attributes(attributes).as_dict()


def read_tables(*paths: str | Path) -> list[pd.DataFrame]:
    """Tables as they were written: the number of a shuffle is text, because "none" is one."""
    return [pd.read_csv(path, dtype={"shuffle": str}) for path in paths]


def network_table(networks: Paths, learned_below: float = 0.9, weights: str = "last") -> pd.DataFrame:
    """Test error, training loss and whether it learned, one row a network.

    A network has learned when its test error is below ``learned_below`` times the error of guessing the largest class; the others
    are kept here, flagged, and left out of the correlations.

    Args:
        networks: files of :func:`relstab.save_network`.
        learned_below: share of chance error, in (0, 1].
        weights: "last": errors and losses are those after the last epoch; "best": of the epoch of best test error.
    """
    rows = []
    for path in networks:
        with open_hdf5(path) as file:
            errors = file["history/test_error"][:]
            epoch = int(errors.argmin()) if weights == "best" else len(errors) - 1
            error = float(errors[epoch])
            rows.append(
                {
                    **_keys(file.attrs),
                    "test_error": error,
                    "train_loss": float(file["history/train_loss"][epoch]),
                    "epochs": len(errors),
                    "learned": error < learned_below * float(file.attrs["chance_error"]),
                    "test_images": int(file.attrs["test_images"]),
                }
            )
    return pd.DataFrame(rows)


def _columns(group: Any) -> pd.DataFrame:
    strings = {"layer", "kind"}
    names = ["layer", "kind", "index", "depth", "D", "G", "R", "D_sem", "G_sem", "R_sem", "denominator"]
    return pd.DataFrame({name: group[name].asstr()[:] if name in strings else group[name][:] for name in names})


def sensitivity_table(measured: Paths, shuffled: Paths) -> pd.DataFrame:
    """D, G and R with standard errors: one row for each layer, state and shuffle ("none" or its number) of each network.

    Args:
        measured: files of :func:`relstab.stages.sensitivity.measure_network`.
        shuffled: files of :func:`relstab.stages.sensitivity.measure_shuffled`.
    """
    parts = []
    for path in measured:
        with open_hdf5(path) as file:
            keys = _keys(file.attrs)
            parts += [_columns(file[state]).assign(**keys, state=state, shuffle="none") for state in ("init", "trained")]
    for path in shuffled:
        with open_hdf5(path) as file:
            keys = _keys(file.attrs)
            for state in ("init", "trained"):
                shuffles = sorted(file[state], key=int)
                parts += [_columns(file[state][name]).assign(**keys, state=state, shuffle=name) for name in shuffles]
    table = pd.concat(parts, ignore_index=True)
    first = [*KEYS, "state", "shuffle"]
    return table[[*first, *table.columns.drop(first)]]


def spectrum_table(spectra: Paths) -> pd.DataFrame:
    """Rows of gamma for every convolution, state and mode (from 1) of each network.

    Args:
        spectra: files of :func:`relstab.filter_spectra.write_spectra`.
    """
    columns = [*KEYS, "state", "layer", "index", "depth", "mode", "eigenvalue", "gamma"]
    rows = []
    for path in spectra:
        with open_hdf5(path) as file:
            values = list(_keys(file.attrs).values())
            for state in ("init", "trained"):
                for index, group in enumerate(file.get(state, {}).values(), start=1):
                    head = [*values, state, str(group.attrs["layer"]), index, float(group.attrs["depth"])]
                    pairs = zip(group["eigenvalue"][:], group["gamma"][:], strict=True)
                    rows += [[*head, mode, *pair] for mode, pair in enumerate(pairs, start=1)]
    return pd.DataFrame(rows, columns=columns)


def over_training_table(measured: Paths) -> pd.DataFrame:
    """D, G and R with standard errors by epoch: one row for each snapshot and layer of each network.

    Epoch 0 is the initialization, which has no test error or training loss.

    Args:
        measured: files of :func:`relstab.stages.sensitivity.measure_over_training`.
    """
    parts = []
    for path in measured:
        with open_hdf5(path) as file:
            keys = _keys(file.attrs)
            for epoch in sorted(file, key=int):
                scores = {name: float(file[epoch].attrs.get(name, np.nan)) for name in ("test_error", "train_loss")}
                parts.append(_columns(file[epoch]).assign(**keys, epoch=int(epoch), **scores))
    table = pd.concat(parts, ignore_index=True)
    first = [*KEYS, "epoch", "test_error", "train_loss"]
    return table[[*first, *table.columns.drop(first)]]


def of_learned(table: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """Rows of the networks that learned."""
    return table.merge(networks.loc[networks["learned"], KEYS], on=KEYS)


def error_above_zero(networks: pd.DataFrame) -> "pd.Series[float]":
    """Test errors with 0, which has no logarithm, replaced by half a test image: 1 / (2 * test_images)."""
    return networks["test_error"].clip(lower=0.5 / networks["test_images"])


def output_sensitivities(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> pd.DataFrame:
    """D, G and R of the output of each unshuffled network at each state, beside its error.

    Networks that did not learn, or whose output is constant, so that it has no sensitivity, are left out.

    Args:
        networks: from :func:`network_table`.
        sensitivity: from :func:`sensitivity_table`.
    """
    outputs = sensitivity[(sensitivity["layer"] == "output") & (sensitivity["shuffle"] == "none")]
    joined = outputs.merge(networks.assign(error=error_above_zero(networks)), on=KEYS, validate="many_to_one")
    values = joined[["D", "G", "R"]].to_numpy()
    usable: NDArray[np.bool_] = (np.isfinite(values) & (values > 0)).all(axis=1) & joined["learned"].to_numpy()
    kept: pd.DataFrame = joined[usable]
    return kept


def correlation_table(
    networks: pd.DataFrame, sensitivity: pd.DataFrame, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """rho of test error with D, G and R of the output over networks, at each noise level and state, with a bootstrap interval.

    Networks that did not learn are left out, and ``networks`` counts the others; an error of 0 counts as half a test image. With
    fewer than 3 networks rho is NaN, and so is the interval with fewer than 4.

    Args:
        networks, sensitivity: the tables of these names.
        confidence, resamples: of the interval, see :func:`relstab.bootstrap_log_correlation`.
        seed: of the resampling.
    """
    columns = ["dataset", "noise", "state", "sensitivity", "rho", "low", "high", "networks"]
    rows = []
    outputs = output_sensitivities(networks, sensitivity)
    for (dataset, noise), level in networks.groupby(["dataset", "noise"]):
        for state in ("init", "trained"):
            chosen = outputs[(outputs["dataset"] == dataset) & (outputs["noise"] == noise) & (outputs["state"] == state)]
            for name in ("D", "G", "R"):
                rho = low = high = float("nan")
                if len(chosen) >= 3:
                    rho = log_correlation(chosen["error"], chosen[name])
                    stream = derive_seed("correlation", seed, str(dataset), float(level["noise"].iloc[0]), state, name)
                    low, high = bootstrap_log_correlation(chosen["error"], chosen[name], confidence, resamples, stream)
                rows.append([dataset, noise, state, name, rho, low, high, len(chosen)])
    return pd.DataFrame(rows, columns=columns)
