"""How much more sensitive to noise the output of a ReLU network is than that of a tanh network trained on the same experiment."""

import math

import numpy as np
import pandas as pd

from relstab.correlation import percentile_interval
from relstab.seeding import derive_seed

__all__ = ["LEARNED", "output_ratio", "relu_and_tanh"]

LEARNED = 0.1
"""Test error up to which a network has learned its task."""

_ACTIVATIONS = ("relu", "tanh")


def relu_and_tanh(layers: pd.DataFrame) -> pd.DataFrame:
    """Rows of the experiments with both activations: trained, whole representations, Gaussian noise, k from 1.

    Args:
        layers: from :func:`relstab.scale_detection.tables.layer_table`.
    """
    rows = layers[
        (layers["state"] == "trained")
        & (layers["noise"] == "gaussian")
        & (layers["representation"] == "whole")
        & layers["activation"].isin(_ACTIVATIONS)
        & (layers["k"] >= 1)
    ]
    both = rows.groupby("experiment")["activation"].nunique() == len(_ACTIVATIONS)
    return rows[rows["experiment"].isin(both.index[both])]


def output_ratio(layers: pd.DataFrame, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Ratio G_relu / G_tanh of the output, of geometric means over the networks that learned, with an interval over networks.

    The interval is a percentile bootstrap. Networks of the two activations are resampled independently of each other.

    Args:
        layers: from :func:`relstab.scale_detection.tables.layer_table`.
        confidence: of the interval.
        resamples: bootstrap samples of it.
        seed: of the resampling.

    Returns:
        For each experiment that has both activations: experiment, ratio (NaN where no network of one of them learned), low, high
        (NaN with fewer than 4 of either), and networks, how many there are of the activation that has fewer.
    """
    rows = []
    both = relu_and_tanh(layers)
    outputs = both[(both["k"] == both["depth"] + 1) & (both["test_error"] <= LEARNED) & (both["G"] > 0) & np.isfinite(both["G"])]
    for experiment in both["experiment"].unique():
        here = outputs[outputs["experiment"] == experiment]
        relu, tanh = (np.log(here.loc[here["activation"] == name, "G"].to_numpy(float)) for name in _ACTIVATIONS)
        ratio = low = high = math.nan
        networks = min(len(relu), len(tanh))
        if networks:
            ratio = math.exp(relu.mean() - tanh.mean())
        if networks >= 4:
            rng = np.random.default_rng(derive_seed("output ratio", seed, str(experiment)))
            first, second = (x[rng.integers(len(x), size=(resamples, len(x)))].mean(1) for x in (relu, tanh))
            low, high = percentile_interval(np.exp(first - second), confidence)
        rows.append([experiment, ratio, low, high, networks])
    return pd.DataFrame(rows, columns=["experiment", "ratio", "low", "high", "networks"])
