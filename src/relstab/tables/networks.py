"""Tables of errors and sensitivities over networks: which networks count, and the correlations between the two.

Tables are tidy: one row per measurement, one column per key.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from relstab.bootstrap import Bootstrap
from relstab.files.network import KEYS, noise_level
from relstab.runs.seeding import derive_seed

__all__ = [
    "GROUPS",
    "KEYS",
    "TEXT",
    "check_same_networks",
    "convolutional",
    "correlation_table",
    "error_above_zero",
    "in_group",
    "initial_states",
    "keys_of",
    "of_learned",
    "of_sizes",
    "once",
    "output_sensitivities",
    "read_table",
]

_ALL_SIZES = "all"

TEXT = (
    *("dataset", "architecture", "code", "state", "shuffle", "statistics", "layer", "kind", "sensitivity", "group"),
    *("experiment", "activation", "rule", "representation", "task", "claim", "statement", "verdict", "decided_by"),
)
"""Columns of text in every table. The noise of the scale-detection tables is text, too, which its values show."""

# From 3.1 on, pandas reads all digits of a float in any case, and deprecates the option.
_EXACT: Any = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}

GROUPS = ("all", "convolutional")
"""Groups of networks: fully connected networks against the rest can carry a correlation by themselves."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Table as it was written: identifiers are text ("007", "NA", "none"), floats have all their digits, and noise
    levels are those of :func:`relstab.files.network.noise_level`.

    Only a number can be missing: in a column of numbers an empty field is NaN, in one of text it is the text "".

    Raises:
        ValueError: the file is not a CSV table.
    """
    try:
        columns = pd.read_csv(path, nrows=0).columns
        table: pd.DataFrame = pd.read_csv(
            path,
            dtype={name: str for name in columns if name in TEXT},
            keep_default_na=False,
            na_values={name: [""] for name in columns if name not in TEXT},
            **_EXACT,
        )
        if "noise" in table and is_numeric_dtype(table["noise"]):
            table["noise"] = table["noise"].map(noise_level)
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("rows with more fields than columns")
        for key in ("noise", "seed"):
            if key in table and table[key].isna().any():
                raise ValueError(f"a row without {key}")
        return table
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a table that this run wrote, got {str(error).strip()}: delete the file and run again"
        ) from error


def convolutional(sensitivity: pd.DataFrame) -> set[str]:
    """Architectures with a convolution among the layers of a table of sensitivities."""
    return set(sensitivity.loc[sensitivity["kind"].str.contains("Conv"), "architecture"])


def in_group(table: pd.DataFrame, group: str, sensitivity: pd.DataFrame) -> pd.DataFrame:
    """Rows of all networks, or those of convolutional ones; ``sensitivity`` says which those are."""
    return table if group == "all" else table[table["architecture"].isin(convolutional(sensitivity))]


def initial_states(table: pd.DataFrame) -> list[str]:
    """States at initialization in a table: "init" always, and the others that it has ("init_frozen")."""
    return ["init", *sorted(state for state in table["state"].unique() if state.startswith("init") and state != "init")]


def keys_of(table: pd.DataFrame) -> list[str]:
    """Key columns of a table over networks: :data:`KEYS`, and training_images where the size of the training set is an axis."""
    return [*KEYS, "training_images"] if "training_images" in table else KEYS


def once(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The table, after a check that rows differ in these columns: a network in two rows would count twice in every mean."""
    twice = table.duplicated(list(keys))
    if twice.any():
        row = table[twice].iloc[0]
        key = ", ".join(f"{name} {row[name]}" for name in keys)
        raise ValueError(f"expected each network once among the files of a table, got two rows of {key}: delete one of its files")
    return table


def check_same_networks(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> None:
    """Refuse tables of different networks: those in one table alone would be left out without notice."""
    keys = keys_of(networks)
    here, there = (set(table[keys].itertuples(index=False, name=None)) for table in (networks, sensitivity))
    for lone, has, lacks in ((here - there, "networks", "sensitivity"), (there - here, "sensitivity", "networks")):
        if lone:
            key = ", ".join(f"{name} {value}" for name, value in zip(keys, min(lone), strict=True))
            raise ValueError(
                f"expected the same networks in the tables networks and sensitivity, got {key} in {has} and not in {lacks}: "
                f"delete both tables and run again"
            )


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
    check_same_networks(once(networks, keys_of(networks)), sensitivity)
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
    fewer than 3 networks rho is NaN, and so is the interval with fewer than 4 architectures.

    Args:
        networks, sensitivity: the tables of these names.
        confidence, resamples: of the interval, see :class:`relstab.bootstrap.Bootstrap`.
        seed: of the resampling.

    Returns:
        dataset, noise, training_images (where it is an axis), state, sensitivity (D, G or R), rho, low, high, networks, group
        ("all" networks or "convolutional" ones), architectures (how many).
    """
    sizes = ["training_images"] if "training_images" in networks else []
    columns = ["dataset", "noise", *sizes, "state", "sensitivity", "rho", "low", "high", "networks", "group", "architectures"]
    rows = []
    outputs = output_sensitivities(networks, sensitivity)
    for dataset, noise in (
        networks[["dataset", "noise"]].drop_duplicates().sort_values(["dataset", "noise"]).itertuples(index=False)
    ):
        level = outputs[(outputs["dataset"] == dataset) & (outputs["noise"] == noise)]
        parts: list[tuple[list[Any], pd.DataFrame]] = [([_ALL_SIZES] if sizes else [], level)]
        if sizes:
            at_level = networks[(networks["dataset"] == dataset) & (networks["noise"] == noise)]
            by_size = sorted(at_level["training_images"].unique())
            parts += [([int(size)], level[level["training_images"] == size]) for size in by_size]
        for (size, part), group in itertools.product(parts, GROUPS):
            for state in (*initial_states(sensitivity), "trained"):
                chosen = in_group(part[part["state"] == state], group, sensitivity)
                bootstrap = Bootstrap(
                    chosen["architecture"].astype(str),
                    resamples,
                    derive_seed("correlation", seed, str(dataset), float(noise), *size, state),
                )
                log_error = np.log(bootstrap.errors(chosen["error"], chosen["test_images"]))
                for name in ("D", "G", "R"):
                    rho = bootstrap.correlation(log_error, np.log(chosen[name].to_numpy(float)))
                    interval = bootstrap.interval(rho, confidence)
                    count = chosen["architecture"].nunique()
                    rows.append([dataset, noise, *size, state, name, *interval, len(chosen), group, count])
    return pd.DataFrame(rows, columns=columns)
