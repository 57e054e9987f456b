"""The tables of a run: collected from the HDF5 files of the other stages, or derived from other tables.

Each function makes one table; the rules of ``workflow/rules/tables.smk`` name it.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from relstab.files.ensemble import read_rows
from relstab.files.hdf5 import read_attributes
from relstab.files.network import NetworkKey, read_history
from relstab.files.sensitivity import read_over_training, read_sensitivity, read_sweep
from relstab.files.spectrum import read_spectra
from relstab.scale_detection import samples
from relstab.scale_detection.tasks import ScaleTask
from relstab.tables import scale_detection
from relstab.tables.claims import claim_table
from relstab.tables.networks import correlation_table, keys_of, once, read_table
from relstab.tables.scale_detection import exponent_table

__all__ = [
    "claim_table",
    "correlation_table",
    "exponent_table",
    "history_table",
    "layer_table",
    "make_table",
    "network_table",
    "over_training_table",
    "sample_table",
    "sensitivity_table",
    "spectrum_table",
    "sweep_table",
]

Paths = Iterable[str | Path]


Described = list[tuple[str | Path, Mapping[str, Any]]]


def _described(paths: Paths) -> Described:
    """Files with their attributes."""
    return [(path, read_attributes(path)) for path in paths]


def _parts(files: Described, read: Callable[[str | Path], pd.DataFrame]) -> list[pd.DataFrame]:
    """Rows of each file; where two versions of the code made the files, a column says which."""
    codes = [str(attributes.get("code", "unknown")) for _, attributes in files]
    parts = [read(file) for file, _ in files]
    return [part.assign(code=code) for part, code in zip(parts, codes, strict=True)] if len(set(codes)) > 1 else parts


def _collected(paths: Paths, read: Callable[[str | Path], pd.DataFrame], *columns: str) -> pd.DataFrame:
    """One table of the rows of many files, each network once.

    Args:
        paths: of the files.
        read: rows of one file.
        columns: keys of a row beside those of its network.

    Raises:
        ValueError: a network is there twice, or files of one architecture were made with different parameters.
    """
    files = _described(paths)
    _check_made_alike(files)
    parts = _parts(files, read)
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return once(table, [*keys_of(table), *columns])


def _check_made_alike(files: Described) -> None:
    """Refuse rows that cannot be compared: files of one rule and architecture have the same parameters, as have all probes."""
    first: dict[tuple[Any, ...], tuple[str | Path, Any]] = {}
    for file, attributes in files:
        for name in ("parameters", "network_parameters", "probes_parameters"):
            value = json.loads(attributes.get(name, "{}"))
            of = () if name == "probes_parameters" else (attributes["architecture"], *value)  # shuffles have other keys
            other, there = first.setdefault((name, attributes["dataset"], *of), (file, value))
            if there != value:
                key = next(key for key in {**there, **value} if there.get(key) != value.get(key))
                raise ValueError(
                    f"expected files that were made alike, got {key} {there.get(key)} in {other} and {value.get(key)} in {file}: "
                    f"delete the one that is not of this config and run again"
                )


def network_table(networks: Paths, learned_below: float = 0.9, weights: str = "last") -> pd.DataFrame:
    """Test error, training loss and whether it learned, one row per network.

    A network learned when its test error is below ``learned_below`` times the error of guessing the largest class. The others are
    flagged, and left out of the correlations.

    Args:
        networks: files of :func:`relstab.save_network`.
        learned_below: share of the chance error, in (0, 1].
        weights: "last" for errors and losses after the last epoch, "best" for those of the epoch of best test error.
    """

    def read(path: str | Path) -> pd.DataFrame:
        attributes, history = read_history(path)
        errors = history["test_error"]
        epoch = int(errors.argmin()) if weights == "best" else len(errors) - 1
        error = float(errors[epoch])
        row = {
            **NetworkKey.from_attributes(attributes).as_dict(),
            "test_error": error,
            "train_loss": float(history["train_loss"][epoch]),
            "epochs": len(errors),
            "learned": error < learned_below * float(attributes["chance_error"]),
            "test_images": int(attributes["test_images"]),
        }
        return pd.DataFrame([row])

    return _collected(networks, read)


def history_table(networks: Paths) -> pd.DataFrame:
    """Learning rate, training loss and test error, one row per network and epoch.

    Args:
        networks: files of :func:`relstab.save_network`.
    """

    def read(path: str | Path) -> pd.DataFrame:
        attributes, history = read_history(path)
        key = NetworkKey.from_attributes(attributes).as_dict()
        return pd.DataFrame({**key, **{name: pd.Series(values) for name, values in history.items()}}).astype({"epoch": int})

    return _collected(networks, read, "epoch")


def sensitivity_table(measured: Paths, shuffled: Paths) -> pd.DataFrame:
    """D, G and R with standard errors: one row per layer, state, shuffle and statistics of batch norm of each network.

    See :func:`relstab.files.sensitivity.read_sensitivity` for the values of these keys.

    Args:
        measured: files of :func:`relstab.stages.sensitivity.measure_network`.
        shuffled: files of :func:`relstab.stages.sensitivity.measure_shuffled`.
    """
    return _collected((*measured, *shuffled), read_sensitivity, "state", "shuffle", "statistics", "layer", "index")


def spectrum_table(spectra: Paths) -> pd.DataFrame:
    """gamma of every convolution: one row per state, layer and mode (from 1) of each network.

    Args:
        spectra: files of :func:`relstab.stages.spectra.analyse_filters`.
    """
    return _collected(spectra, read_spectra, "state", "index", "mode")


def sweep_table(measured: Paths) -> pd.DataFrame:
    """D, G and R with standard errors of the input and the output: one row per state, displacement and cutoff of each network.

    Args:
        measured: files of :func:`relstab.stages.sensitivity.measure_sweep`.
    """
    return _collected(measured, read_sweep, "state", "displacement", "cutoff", "layer", "index")


def over_training_table(measured: Paths) -> pd.DataFrame:
    """D, G and R with standard errors by epoch: one row per snapshot and layer of each network.

    Epoch 0 is the initialization, which has no test error or training loss.

    Args:
        measured: files of :func:`relstab.stages.sensitivity.measure_over_training`.
    """
    return _collected(measured, read_over_training, "epoch", "layer", "index")


def layer_table(measured: Paths, homogeneous: str | Path) -> pd.DataFrame:
    """D, G, R and A_k by layer of all simple CNNs and of the networks of homogeneous filters.

    Args:
        measured: files of :func:`relstab.stages.scale_detection.measure_saved_ensemble`.
        homogeneous: file of :func:`relstab.stages.scale_detection.measure_homogeneous`.
    """
    *ensembles, filters = _parts(_described([*measured, homogeneous]), read_rows)
    keys = [*scale_detection.KEYS, "state", "learning_rate", "seed", "noise", "representation", "k"]
    return once(scale_detection.layer_table(ensembles, filters), keys)


def sample_table(tasks: Mapping[str, Mapping[str, Any]], seed: int) -> pd.DataFrame:
    """Samples of the tasks for figure 5; ``tasks`` holds the arguments of :class:`ScaleTask` by name."""
    return samples.sample_table({name: ScaleTask(**task) for name, task in tasks.items()}, seed=seed)


def make_table(function: str, inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> pd.DataFrame:
    """A table of a run; if two versions of the code made its inputs, a warning and the column ``code`` name them.

    Args:
        function: of this module.
        inputs: files by argument, HDF5 files or one table.
        arguments: the others.
    """
    read = {name: read_table(str(files)) if str(files).endswith(".csv") else files for name, files in inputs.items()}
    table: pd.DataFrame = globals()[function](**read, **arguments)
    frames = [frame for frame in (table, *read.values()) if isinstance(frame, pd.DataFrame) and "code" in frame]
    if codes := sorted({code for frame in frames for code in frame["code"].unique()}):
        warnings.warn(
            f"{len(codes)} versions of the code made what this table holds, {' and '.join(codes)}: see its column code, and make "
            f"files again with --forcerun",
            stacklevel=2,
        )
        table = table if "code" in table else table.assign(code=" and ".join(codes))
    return table
