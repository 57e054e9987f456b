"""The stages of the pipeline on the simple CNNs: train an ensemble, measure it, and measure networks of homogeneous filters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from relstab.devices import choose_device
from relstab.files.ensemble import load_ensemble, save_ensemble, write_rows
from relstab.files.hdf5 import provenance, read_attributes
from relstab.scale_detection.design import SimpleDesign
from relstab.scale_detection.ensemble_training import EnsembleRecipe, TrainedEnsemble, train_ensemble
from relstab.scale_detection.homogeneous import HOMOGENEOUS, homogeneous_layers, homogeneous_theory, lit_site_probes
from relstab.scale_detection.measurement import measure_ensemble
from relstab.scale_detection.tasks import ScaleTask, split_pairs
from relstab.seeding import derive_seed, make_generator
from relstab.sensitivity import accumulate_sums, sensitivity_rows
from relstab.training.checkpoint import discard

__all__ = ["measure_homogeneous", "measure_saved_ensemble", "train_and_save_ensemble"]


def train_and_save_ensemble(
    path: str | Path,
    experiment: str,
    task: ScaleTask,
    design: SimpleDesign,
    recipe: EnsembleRecipe,
    pairs: int,
    seeds: int,
    config_seed: int = 0,
    device: str = "auto",
    checkpoint_minutes: float = 3.0,
) -> TrainedEnsemble:
    """Train simple CNNs with seeds 0, 1, ... and write them, with the pairs of their task, to HDF5.

    Args:
        path: of the HDF5 file; checkpoints are in the folder of this name that ends in ``.checkpoints``.
        experiment: its name in the config.
        task, design, recipe: what to train on what, and how.
        pairs: P, for training; all others are for the test, as many of one label as of the other.
        seeds: how many networks.
        config_seed: of the whole run.
        device: "auto", "cpu", "cuda" or "cuda:N".
        checkpoint_minutes: between two checkpoints.
    """
    train, test = split_pairs(task.enumerate(), pairs, seed=derive_seed("pairs", experiment, config_seed))
    trained = train_ensemble(
        task,
        train,
        design,
        recipe,
        range(seeds),
        identity=(config_seed, experiment, design.activation),
        device=device,
        checkpoints=Path(path).with_suffix(".checkpoints"),
        checkpoint_minutes=checkpoint_minutes,
    )
    save_ensemble(path, trained, train, test, experiment, config_seed, str(choose_device(device)))
    discard(trained.checkpoints)
    return trained


def _described(task: ScaleTask, design: SimpleDesign) -> dict[str, Any]:
    """Columns that tell experiments apart."""
    return {
        "rule": task.rule,
        "size": task.size,
        "scale": task.scale,
        "gap": task.gap,
        "filter_size": design.filter_size,
        "stride": design.stride,
        "depth": design.depth,
        "channels": design.channels,
        "activation": design.activation,
    }


def measure_saved_ensemble(
    path: str | Path, network: str | Path, probes: int, seed: int = 0, batch_size: int | None = None, device: str = "auto"
) -> None:
    """Measure an ensemble of :func:`train_and_save_ensemble`: a row for each state, seed, noise, representation and layer.

    Args:
        path: of the HDF5 file to write, see :func:`relstab.files.ensemble.read_rows`.
        network: file of the ensemble.
        probes: P, test pairs to measure on; all, where there are fewer.
        seed: of the whole run.
        batch_size, device: as in :func:`relstab.measure_sensitivity`.
    """
    trained, train, test = load_ensemble(network)
    attributes = read_attributes(network, "ensemble")
    experiment, parameters = str(attributes["experiment"]), str(attributes["parameters"])
    rows = measure_ensemble(trained, test, probes, (seed, experiment), batch_size, device)
    least = trained.task.least_error_of_translation_invariant if trained.design.stride == 1 else 0.0
    rows = rows.assign(
        experiment=experiment,
        **_described(trained.task, trained.design),
        pairs=len(train),
        least_error=least,
    )
    attributes = {"network_parameters": parameters, **provenance({"probes": probes}, seed, str(choose_device(device)))}
    write_rows(path, rows, attributes)


class _HomogeneousLayer(nn.Module):
    """One layer of homogeneous filters, [N, sites] to [N, sites after]."""

    def __init__(self, filter_size: int, stride: int) -> None:
        super().__init__()
        self.filter_size, self.stride = filter_size, stride

    def forward(self, values: Tensor) -> Tensor:
        return homogeneous_layers(values, self.filter_size, self.stride, 1)[0]


def _homogeneous_rows(name: str, kind: Mapping[str, int], seed: int) -> pd.DataFrame:
    """D and G of one network of homogeneous filters over all its lit sites, beside their closed forms."""
    probes = lit_site_probes(kind["size"], generator=make_generator("homogeneous", name, seed))
    network = {key: kind[key] for key in ("filter_size", "stride", "depth")}
    noise = probes.noisy - probes.images
    theory = homogeneous_theory(
        **network, size=kind["size"], height=1.0, noise_mean=float(noise.mean()), noise_variance=float(noise.var())
    )
    layers = [_HomogeneousLayer(kind["filter_size"], kind["stride"]) for _ in range(kind["depth"])]
    sums = accumulate_sums(nn.Sequential(*layers), probes, [str(index) for index in range(kind["depth"])])
    rows = sensitivity_rows(sums)
    return pd.DataFrame(
        {
            "experiment": name,
            "size": kind["size"],
            **network,
            "k": range(1, kind["depth"] + 1),
            **{column: [row[column] for row in rows] for column in ("D", "G")},
            "receptive_field": theory.receptive_field,
            "theory_D": theory.D,
            "theory_G": theory.G,
        }
    )


def measure_homogeneous(path: str | Path, seed: int = 0) -> None:
    """Measure the networks of :data:`HOMOGENEOUS`: a row for each layer, with D, G and their closed forms.

    Args:
        path: of the HDF5 file to write.
        seed: of the whole run.
    """
    rows = pd.concat([_homogeneous_rows(name, kind, seed) for name, kind in HOMOGENEOUS.items()], ignore_index=True)
    write_rows(path, rows, provenance({"networks": HOMOGENEOUS}, seed))
