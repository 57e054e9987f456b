"""Tables of errors and sensitivities over networks: which networks count, and the correlations between the two.

Tables are tidy: one row per measurement, one column per key.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from relstab.correlation import bootstrap_log_correlation, log_correlation
from relstab.files.network import KEYS
from relstab.seeding import derive_seed

__all__ = [
    "KEYS",
    "correlation_table",
    "error_above_zero",
    "keys_of",
    "of_learned",
    "of_sizes",
    "output_sensitivities",
    "read_tables",
]

_ALL_SIZES = "all"


def read_tables(*paths: str | Path) -> list[pd.DataFrame]:
    """Tables as they were written: the number of a shuffle is text, because "none" is one."""
    return [pd.read_csv(path, dtype={"shuffle": str}) for path in paths]


def keys_of(table: pd.DataFrame) -> list[str]:
    """Key columns of a table over networks: :data:`KEYS`, and training_images where the size of the training set is an axis."""
    return [*KEYS, "training_images"] if "training_images" in table else KEYS


def of_sizes(table: pd.DataFrame, every: bool) -> pd.DataFrame:
    """Rows of all sizes of the training set, or of the largest, without that column; the table as it is where it is no axis.

    Of a table with rows over all sizes (training_images is "all"), these are the rows for ``every``.
    """
    if "training_images" not in table:
        return table
    sizes = table["training_images"].astype(str)
    largest = max((size for size in sizes if size != _ALL_SIZES), key=int, default="")
    if every and not (sizes == _ALL_SIZES).any():
        return table
    return table[sizes == (_ALL_SIZES if every else largest)].drop(columns="training_images")


def of_learned(table: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """Rows of the networks that learned."""
    keys = keys_of(networks)
    return table.merge(networks.loc[networks["learned"], keys], on=keys)


def error_above_zero(networks: pd.DataFrame) -> "pd.Series[float]":
    """Test errors with 0, which has no logarithm, replaced by half a test image: 1 / (2 * test_images)."""
    return networks["test_error"].clip(lower=0.5 / networks["test_images"])


def output_sensitivities(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> pd.DataFrame:
    """D, G and R of the output of each unshuffled network at each state, beside its error.

    Networks that did not learn, or whose output is constant, so that it has no sensitivity, are left out.

    Args:
        networks: from :func:`relstab.stages.tables.network_table`.
        sensitivity: from :func:`relstab.stages.tables.sensitivity_table`.
    """
    outputs = sensitivity[(sensitivity["layer"] == "output") & (sensitivity["shuffle"] == "none")]
    joined = outputs.merge(networks.assign(error=error_above_zero(networks)), on=keys_of(networks), validate="many_to_one")
    values = joined[["D", "G", "R"]].to_numpy()
    usable: NDArray[np.bool_] = (np.isfinite(values) & (values > 0)).all(axis=1) & joined["learned"].to_numpy()
    kept: pd.DataFrame = joined[usable]
    return kept


def correlation_table(
    networks: pd.DataFrame, sensitivity: pd.DataFrame, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """rho of test error with D, G and R of the output over networks, at each noise level and state, with a bootstrap interval.

    Where the size of the training set is an axis, there are rows of each size, and of the networks of all sizes ("all").

    Networks that did not learn are left out, and ``networks`` counts the others; an error of 0 counts as half a test image. With
    fewer than 3 networks rho is NaN, and so is the interval with fewer than 4.

    Args:
        networks, sensitivity: the tables of these names.
        confidence, resamples: of the interval, see :func:`relstab.bootstrap_log_correlation`.
        seed: of the resampling.
    """
    sizes = ["training_images"] if "training_images" in networks else []
    columns = ["dataset", "noise", *sizes, "state", "sensitivity", "rho", "low", "high", "networks"]
    rows = []
    outputs = output_sensitivities(networks, sensitivity)
    for (dataset, noise), level in networks.groupby(["dataset", "noise"]):
        at_level = outputs[(outputs["dataset"] == dataset) & (outputs["noise"] == noise)]
        parts: list[tuple[list[Any], pd.DataFrame]] = [([_ALL_SIZES] if sizes else [], at_level)]
        if sizes:
            by_size = sorted(level["training_images"].unique())
            parts += [([int(size)], at_level[at_level["training_images"] == size]) for size in by_size]
        for size, part in parts:
            for state in ("init", "trained"):
                chosen = part[part["state"] == state]
                for name in ("D", "G", "R"):
                    rho = low = high = float("nan")
                    if len(chosen) >= 3:
                        rho = log_correlation(chosen["error"], chosen[name])
                        stream = derive_seed("correlation", seed, str(dataset), float(level["noise"].iloc[0]), *size, state, name)
                        low, high = bootstrap_log_correlation(chosen["error"], chosen[name], confidence, resamples, stream)
                    rows.append([dataset, noise, *size, state, name, rho, low, high, len(chosen)])
    return pd.DataFrame(rows, columns=columns)
