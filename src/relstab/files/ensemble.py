"""Ensembles, and what was measured on them, in HDF5 files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5

if TYPE_CHECKING:
    import pandas as pd

    from relstab.scale_detection.ensemble_training import TrainedEnsemble
    from relstab.scale_detection.tasks import Pairs

__all__ = ["load_ensemble", "read_rows", "save_ensemble", "write_rows"]


def save_ensemble(
    path: str | Path,
    trained: "TrainedEnsemble",
    train: "Pairs",
    test: "Pairs",
    experiment: str = "",
    config_seed: int = 0,
    device: str = "cpu",
) -> None:
    """Write an ensemble: its task, design and recipe, parameters [M, ...] by state, history, and the pairs of its task.

    Args:
        path: of the HDF5 file.
        trained: from :func:`relstab.scale_detection.ensemble_training.train_ensemble`.
        train, test: pairs.
        experiment: its name in the config.
        config_seed: of the whole run.
        device: on which it was trained.
    """
    what = {"task": vars(trained.task), "design": trained.design.as_dict(), "recipe": vars(trained.recipe)}
    attributes: dict[str, Any] = {name: json.dumps(value) for name, value in what.items()}
    attributes |= {"experiment": experiment, "seeds": trained.seeds, "learning_rates": trained.learning_rates}
    attributes |= {"epochs": trained.epochs, "reached_zero": trained.reached_zero}
    with write_hdf5(path, {**attributes, **provenance({**what, "config_seed": config_seed}, device=device)}, "ensemble") as file:
        for state, parameters in trained.states.items():
            for name, value in parameters.items():
                file[f"states/{state}/{name}"] = value.numpy()
        longest = max(map(len, trained.loss))
        file["loss"] = np.array([[*loss, *[np.nan] * (longest - len(loss))] for loss in trained.loss])
        for part, pairs in (("train", train), ("test", test)):
            file[f"{part}/sites"], file[f"{part}/labels"] = pairs.sites.numpy(), pairs.labels.numpy()


def load_ensemble(path: str | Path) -> "tuple[TrainedEnsemble, Pairs, Pairs]":
    """Ensemble, training pairs and test pairs of a file of :func:`save_ensemble`."""
    import torch

    from relstab.scale_detection.design import SimpleDesign
    from relstab.scale_detection.ensemble_training import STATES, EnsembleRecipe, TrainedEnsemble
    from relstab.scale_detection.tasks import Pairs, ScaleTask

    with open_hdf5(path, "ensemble") as file:
        attributes = file.attrs
        design = SimpleDesign(**json.loads(attributes["design"]))
        trained = TrainedEnsemble(
            task=ScaleTask(**json.loads(attributes["task"])),
            design=design,
            recipe=EnsembleRecipe(**json.loads(attributes["recipe"])),
            seeds=[int(seed) for seed in attributes["seeds"]],
            learning_rates=[float(rate) for rate in attributes["learning_rates"]],
            states={
                state: {name: torch.as_tensor(file[f"states/{state}/{name}"][()]) for name, _ in design.parameters()}
                for state in STATES
                if state in file["states"]
            },
            epochs=[int(epoch) for epoch in attributes["epochs"]],
            reached_zero=[bool(value) for value in attributes["reached_zero"]],
            loss=[[float(value) for value in row if not np.isnan(value)] for row in file["loss"][:]],
        )
        train, test = (
            Pairs(*(torch.from_numpy(file[f"{part}/{name}"][:]) for name in ("sites", "labels"))) for part in ("train", "test")
        )
    return trained, train, test


def write_rows(path: str | Path, rows: "pd.DataFrame", attributes: Mapping[str, Any]) -> None:
    """Table as an HDF5 file, a data set a column."""
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
