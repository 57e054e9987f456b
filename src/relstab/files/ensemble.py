"""Ensembles of simple CNNs, and what was measured on them: the one module that writes and reads these HDF5 files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5
from relstab.files.network import check_finite

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["EnsembleFile", "read_ensemble", "read_rows", "write_ensemble", "write_rows"]


@dataclass(frozen=True)
class EnsembleFile:
    """Content of a file of an ensemble.

    Attributes:
        experiment: its name in the config.
        task, design, recipe: what was trained on what, and how: the fields of the three dataclasses.
        seeds: of each member, [M].
        epochs, reached_zero: of each member, [M]: epochs trained, and whether the training loss reached zero.
        loss: mean training loss of each epoch, one list per member.
        states: parameters, [M, ...], by state and name.
        pairs: lit sites [N, 2] and labels [N] of the parts "train" and "test".
        parameters: provenance, JSON; "" before the file is written.
    """

    experiment: str
    task: dict[str, Any]
    design: dict[str, Any]
    recipe: dict[str, Any]
    seeds: list[int]
    epochs: list[int]
    reached_zero: list[bool]
    loss: list[list[float]]
    states: "dict[str, dict[str, Tensor]]"
    pairs: "dict[str, tuple[Tensor, Tensor]]"
    parameters: str = ""


def write_ensemble(path: str | Path, content: EnsembleFile, config_seed: int = 0, device: str = "cpu") -> None:
    """Write an ensemble to HDF5.

    Args:
        path: of the HDF5 file.
        content: the ensemble.
        config_seed: of the whole run.
        device: on which it was trained.

    Raises:
        FloatingPointError: a weight is NaN or infinite.
    """
    key = f"scale_detection.experiments.{content.experiment}.learning_rate"
    check_finite(content.states, f"the ensemble {content.experiment}", key)
    described = {name: getattr(content, name) for name in ("task", "design", "recipe")}
    attributes: dict[str, Any] = {name: json.dumps(value) for name, value in described.items()}
    attributes |= {name: getattr(content, name) for name in ("experiment", "seeds", "epochs", "reached_zero")}
    attributes |= provenance({**described, "config_seed": config_seed}, device=device)
    with write_hdf5(path, attributes, "ensemble") as file:
        for state, parameters in content.states.items():
            for name, value in parameters.items():
                file[f"states/{state}/{name}"] = value.numpy()
        longest = max(map(len, content.loss))
        file["loss"] = np.array([[*loss, *[np.nan] * (longest - len(loss))] for loss in content.loss])
        for part, (sites, labels) in content.pairs.items():
            file[f"{part}/sites"], file[f"{part}/labels"] = sites.numpy(), labels.numpy()


def read_ensemble(path: str | Path) -> EnsembleFile:
    """Content of a file of :func:`write_ensemble`."""
    import torch

    with open_hdf5(path, "ensemble") as file:
        attributes = file.attrs
        return EnsembleFile(
            experiment=str(attributes["experiment"]),
            **{name: json.loads(attributes[name]) for name in ("task", "design", "recipe")},
            seeds=attributes["seeds"].tolist(),
            epochs=attributes["epochs"].tolist(),
            reached_zero=attributes["reached_zero"].tolist(),
            loss=[row[~np.isnan(row)].tolist() for row in file["loss"][:]],
            states={
                state: {name: torch.as_tensor(value[()]) for name, value in parameters.items()}
                for state, parameters in file["states"].items()
            },
            pairs={
                part: (torch.from_numpy(file[f"{part}/sites"][:]), torch.from_numpy(file[f"{part}/labels"][:]))
                for part in ("train", "test")
            },
            parameters=str(attributes["parameters"]),
        )


def write_rows(path: str | Path, rows: "pd.DataFrame", attributes: Mapping[str, Any]) -> None:
    """Table as an HDF5 file, one data set per column."""
    with write_hdf5(path, attributes, "rows") as file:
        for column in rows.columns:
            values = rows[column].to_numpy()
            text = values.dtype.kind not in "biuf"
            file.create_dataset(column, data=values, dtype=h5py.string_dtype() if text else None)
        file.attrs["columns"] = list(rows.columns)


def read_rows(path: str | Path) -> "pd.DataFrame":
    """Table of a file of :func:`write_rows`."""
    import pandas as pd

    with open_hdf5(path, "rows") as file:
        columns = {
            name: file[name].asstr()[:] if h5py.check_string_dtype(file[name].dtype) else file[name][:]
            for name in file.attrs["columns"]
        }
    return pd.DataFrame(columns)
