"""How much more sensitive to noise a ReLU network is than a tanh network trained on the same experiment."""

import math
from typing import Literal

import numpy as np
import pandas as pd

from relstab.bootstrap import Bootstrap, Interval
from relstab.runs.seeding import derive_seed

__all__ = ["LEARNED", "noise_ratio", "relu_and_tanh"]

LEARNED = 0.1
"""Test error up to which a network has learned its task."""

_ACTIVATIONS = ("relu", "tanh")


def relu_and_tanh(layers: pd.DataFrame, state: str = "trained") -> pd.DataFrame:
    """Rows of the experiments with both activations: whole representations, Gaussian noise, k from 1.

    Args:
        layers: from :func:`relstab.tables.scale_detection.layer_table`.
        state: "trained", at zero training loss, or "decayed".
    """
    rows = layers[
        (layers["state"] == state)
        & (layers["noise"] == "gaussian")
        & (layers["representation"] == "whole")
        & layers["activation"].isin(_ACTIVATIONS)
        & (layers["k"] >= 1)
    ]
    both = rows.groupby("experiment")["activation"].nunique() == len(_ACTIVATIONS)
    return rows[rows["experiment"].isin(both.index[both])]


def _deepest_pooling(rows: pd.DataFrame) -> int:
    """The deepest layer of an experiment that sees no more than the scale with ReLU, or else the first layer."""
    relu = rows[(rows["activation"] == "relu") & (rows["k"] <= rows["depth"])]
    fields = relu.groupby("k")["receptive_field"].mean()
    within = fields.index[fields <= rows["scale"].iloc[0] * (1 + 1e-9)]
    return int(max(within, default=1))


def noise_ratio(
    layers: pd.DataFrame,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    state: str = "trained",
    where: Literal["output", "pooling"] = "output",
) -> pd.DataFrame:
    """Ratio G_relu / G_tanh, of geometric means over the networks that learned, with an interval over networks.

    The interval is a percentile bootstrap. Networks of the two activations are resampled independently of each other.

    Args:
        layers: from :func:`relstab.tables.scale_detection.layer_table`.
        confidence: of the interval.
        resamples: bootstrap samples of it.
        seed: of the resampling.
        state: "trained", at zero training loss, or "decayed", after weight decay.
        where: "output", or "pooling": the deepest layer that sees no more than the scale.

    Returns:
        For each experiment that has both activations: experiment, k, ratio (NaN where no network of one of them learned), low,
        high (NaN with fewer than 4 of either), and networks, how many there are of the activation that has fewer.
    """
    rows = []
    both = relu_and_tanh(layers, state)
    usable = both[(both["test_error"] <= LEARNED) & (both["G"] > 0) & np.isfinite(both["G"])]
    for experiment in both["experiment"].unique():
        every = both[both["experiment"] == experiment]
        k = int(every["depth"].iloc[0]) + 1 if where == "output" else _deepest_pooling(every)
        here = usable[(usable["experiment"] == experiment) & (usable["k"] == k)]
        relu, tanh = (np.log(here.loc[here["activation"] == name, "G"].to_numpy(float)) for name in _ACTIVATIONS)
        if len(relu) and len(tanh):
            bootstraps = [
                Bootstrap(np.arange(len(x)), resamples, derive_seed("noise ratio", seed, str(experiment), state, where, name))
                for name, x in zip(_ACTIVATIONS, (relu, tanh), strict=True)
            ]
            fewer = min(bootstraps, key=lambda bootstrap: bootstrap.group_count)
            ratio = np.exp(bootstraps[0].mean(relu) - bootstraps[1].mean(tanh))
            interval = fewer.interval(ratio, confidence)
        else:
            interval = Interval(math.nan, math.nan, math.nan)
        rows.append([experiment, k, *interval, min(len(relu), len(tanh))])
    return pd.DataFrame(rows, columns=["experiment", "k", "ratio", "low", "high", "networks"])
