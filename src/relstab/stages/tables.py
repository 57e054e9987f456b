"""The tables of a run: collected from the HDF5 files of the other stages, or derived from other tables.

Each function makes one table; the rules of ``workflow/rules/tables.smk`` name it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from relstab.files.ensemble import read_rows
from relstab.files.network import NetworkKey, read_history
from relstab.files.sensitivity import read_over_training, read_sensitivity
from relstab.files.spectrum import read_spectra
from relstab.scale_detection import samples
from relstab.scale_detection.tasks import ScaleTask
from relstab.tables import scale_detection
from relstab.tables.claims import claim_table
from relstab.tables.networks import correlation_table
from relstab.tables.scale_detection import exponent_table

__all__ = [
    "claim_table",
    "correlation_table",
    "exponent_table",
    "history_table",
    "layer_table",
    "network_table",
    "over_training_table",
    "sample_table",
    "sensitivity_table",
    "spectrum_table",
]

Paths = Iterable[str | Path]


def network_table(networks: Paths, learned_below: float = 0.9, weights: str = "last") -> pd.DataFrame:
    """Test error, training loss and whether it learned, one row per network.

    A network learned when its test error is below ``learned_below`` times the error of guessing the largest class. The others are
    flagged, and left out of the correlations.

    Args:
        networks: files of :func:`relstab.save_network`.
        learned_below: share of the chance error, in (0, 1].
        weights: "last" for errors and losses after the last epoch, "best" for those of the epoch of best test error.
    """
    rows = []
    for path in networks:
        attributes, history = read_history(path)
        errors = history["test_error"]
        epoch = int(errors.argmin()) if weights == "best" else len(errors) - 1
        error = float(errors[epoch])
        rows.append(
            {
                **NetworkKey.from_attributes(attributes).as_dict(),
                "test_error": error,
                "train_loss": float(history["train_loss"][epoch]),
                "epochs": len(errors),
                "learned": error < learned_below * float(attributes["chance_error"]),
                "test_images": int(attributes["test_images"]),
            }
        )
    return pd.DataFrame(rows)


def history_table(networks: Paths) -> pd.DataFrame:
    """Learning rate, training loss and test error, one row per network and epoch.

    Args:
        networks: files of :func:`relstab.save_network`.
    """
    parts = []
    for path in networks:
        attributes, history = read_history(path)
        key = NetworkKey.from_attributes(attributes).as_dict()
        parts.append(pd.DataFrame({**key, **{name: pd.Series(values) for name, values in history.items()}}))
    table = pd.concat(parts, ignore_index=True)
    return table.astype({"epoch": int})


def sensitivity_table(measured: Paths, shuffled: Paths) -> pd.DataFrame:
    """D, G and R with standard errors: one row per layer, state and shuffle ("none" or its number) of each network.

    Args:
        measured: files of :func:`relstab.stages.sensitivity.measure_network`.
        shuffled: files of :func:`relstab.stages.sensitivity.measure_shuffled`.
    """
    return pd.concat([read_sensitivity(path) for path in (*measured, *shuffled)], ignore_index=True)


def spectrum_table(spectra: Paths) -> pd.DataFrame:
    """gamma of every convolution: one row per state, layer and mode (from 1) of each network.

    Args:
        spectra: files of :func:`relstab.stages.spectra.analyse_filters`.
    """
    return read_spectra(*spectra)


def over_training_table(measured: Paths) -> pd.DataFrame:
    """D, G and R with standard errors by epoch: one row per snapshot and layer of each network.

    Epoch 0 is the initialization, which has no test error or training loss.

    Args:
        measured: files of :func:`relstab.stages.sensitivity.measure_over_training`.
    """
    return pd.concat([read_over_training(path) for path in measured], ignore_index=True)


def layer_table(measured: Paths, homogeneous: str | Path) -> pd.DataFrame:
    """D, G, R and A_k by layer of all simple CNNs and of the networks of homogeneous filters.

    Args:
        measured: files of :func:`relstab.stages.scale_detection.measure_saved_ensemble`.
        homogeneous: file of :func:`relstab.stages.scale_detection.measure_homogeneous`.
    """
    return scale_detection.layer_table([read_rows(path) for path in measured], read_rows(homogeneous))


def sample_table(tasks: Mapping[str, Mapping[str, Any]], seed: int) -> pd.DataFrame:
    """Samples of the tasks for figure 5; ``tasks`` holds the arguments of :class:`ScaleTask` by name."""
    return samples.sample_table({name: ScaleTask(**task) for name, task in tasks.items()}, seed=seed)
