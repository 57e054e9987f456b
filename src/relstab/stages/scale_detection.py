"""The stages of the pipeline on scale-detection tasks.

Simple CNNs: train an ensemble, measure it, and measure networks of homogeneous filters. Deep networks (figures 6, 8 and 9): write
images with two lit pixels as a data set, and perturb them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from relstab.files.checkpoints import checkpoints_of, mark_saved
from relstab.files.dataset import PARTS, read_dataset_name, read_pairs, write_dataset
from relstab.files.ensemble import EnsembleFile, read_ensemble, write_ensemble, write_rows
from relstab.files.hdf5 import provenance
from relstab.files.probes import write_probes
from relstab.runs.devices import choose_device
from relstab.runs.seeding import derive_seed, make_generator
from relstab.scale_detection.design import VALIDATION, SimpleDesign
from relstab.scale_detection.ensemble_training import STATES, EnsembleRecipe, TrainedEnsemble, train_ensemble
from relstab.scale_detection.homogeneous import HOMOGENEOUS, homogeneous_layers, homogeneous_theory, lit_site_probes
from relstab.scale_detection.measurement import measure_ensemble
from relstab.scale_detection.perturbations import make_pair_probes
from relstab.scale_detection.tasks import Pairs, ScaleTask, split_pairs
from relstab.sensitivity import accumulate_sums
from relstab.sensitivity_table import sensitivity_rows

__all__ = [
    "ensemble_of",
    "load_test_pairs",
    "measure_homogeneous",
    "measure_saved_ensemble",
    "save_pair_dataset",
    "save_pair_probes",
    "train_and_save_ensemble",
]

_PER_MEMBER = ("seeds", "epochs", "reached_zero", "loss")


def ensemble_of(content: EnsembleFile) -> tuple[TrainedEnsemble, Pairs, Pairs]:
    """Ensemble, training pairs and test pairs of a file of :func:`train_and_save_ensemble`."""
    design = SimpleDesign(**content.design)
    trained = TrainedEnsemble(
        task=ScaleTask(**content.task),
        design=design,
        recipe=EnsembleRecipe(**content.recipe),
        # In the order in which they were kept, which is that of the rows measured: HDF5 gives names in alphabetical order.
        states={
            state: {name: content.states[state][name] for name, _ in design.parameters()}
            for state in STATES
            if state in content.states
        },
        **{name: getattr(content, name) for name in _PER_MEMBER},
    )
    return trained, Pairs(*content.pairs["train"]), Pairs(*content.pairs["test"])


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
        pairs: P, for training; all others are for the test, as many of one label as of the other. With a ridge, 128 of them
            are for the validation instead.
        seeds: how many networks.
        config_seed: of the whole run.
        device: "auto", "cpu", "cuda" or "cuda:N".
        checkpoint_minutes: between two checkpoints.
    """
    train, test = split_pairs(task.enumerate(), pairs, seed=derive_seed("pairs", experiment, config_seed))
    validation = None
    if recipe.ridge:
        first = [torch.nonzero(test.labels == label)[: VALIDATION // 2, 0] for label in (1, -1)]
        chosen = torch.zeros(len(test), dtype=torch.bool).index_fill(0, torch.cat(first), True)
        validation, test = test[chosen], test[~chosen]
    trained = train_ensemble(
        task,
        train,
        design,
        recipe,
        range(seeds),
        identity=(config_seed, experiment, design.activation),
        device=device,
        checkpoints=checkpoints_of(path),
        checkpoint_minutes=checkpoint_minutes,
        validation=validation,
    )
    content = EnsembleFile(
        experiment=experiment,
        task=vars(task),
        design=design.as_dict(),
        recipe=vars(recipe),
        states=trained.states,
        **{name: getattr(trained, name) for name in _PER_MEMBER},
        pairs={part: (pairs.sites, pairs.labels) for part, pairs in (("train", train), ("test", test))},
    )
    write_ensemble(path, content, config_seed, str(choose_device(device)))
    mark_saved(trained.checkpoints)
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
    """Measure an ensemble of :func:`train_and_save_ensemble`: one row per state, seed, noise, representation and layer.

    Args:
        path: of the HDF5 file to write, see :func:`relstab.files.ensemble.read_rows`.
        network: file of the ensemble.
        probes: P, test pairs to measure on; all, where there are fewer.
        seed: of the whole run.
        batch_size, device: as in :func:`relstab.measure_sensitivity`.
    """
    content = read_ensemble(network)
    trained, train, test = ensemble_of(content)
    rows = measure_ensemble(trained, test, probes, (seed, content.experiment), batch_size, device)
    least = trained.task.least_error_of_translation_invariant if trained.design.stride == 1 else 0.0
    rows = rows.assign(
        experiment=content.experiment,
        **_described(trained.task, trained.design),
        pairs=len(train),
        least_error=least,
    )
    attributes = {"network_parameters": content.parameters, **provenance({"probes": probes}, seed, str(choose_device(device)))}
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
    """Measure the networks of :data:`HOMOGENEOUS`: one row per layer, with D, G and their closed forms.

    Args:
        path: of the HDF5 file to write.
        seed: of the whole run.
    """
    rows = pd.concat([_homogeneous_rows(name, kind, seed) for name, kind in HOMOGENEOUS.items()], ignore_index=True)
    write_rows(path, rows, provenance({"networks": HOMOGENEOUS}, seed))


def save_pair_dataset(path: str | Path, name: str, task: ScaleTask, train: int, test: int, seed: int = 0) -> None:
    """Write a balanced choice of pairs as a data set of :func:`relstab.files.dataset.read_dataset`.

    Lit pixels are 255, label 1 is y = +1 and label 0 is y = -1. The mean is 0 and the standard deviation such that normalised
    images have ``task.height`` in their lit pixels.

    Args:
        path: of the HDF5 file.
        name: of the data set.
        task: in two dimensions.
        train, test: pairs, even numbers.
        seed: of the whole run.
    """
    if task.dimension != 2:
        raise ValueError(f"expected a task of dimension 2, images, got {task.dimension}")
    pairs = dict(zip(PARTS, split_pairs(task.enumerate(), train, test, derive_seed("pairs", name, seed)), strict=True))
    with write_dataset(path, name, {"task": vars(task), "train": train, "test": test}, seed) as file:
        for part, chosen in pairs.items():
            images = np.where(task.images(chosen.sites).numpy() > 0, np.uint8(255), np.uint8(0))
            file.add_part(part, images, (chosen.labels.numpy() > 0).astype(np.int64))
        file.add_pairs(vars(task), {part: chosen.sites.numpy() for part, chosen in pairs.items()})
        file.add_normalisation(np.zeros(1), np.full(1, 1 / task.height))


def load_test_pairs(path: str | Path) -> tuple[ScaleTask, Pairs]:
    """Task and test pairs of a file of :func:`save_pair_dataset`."""
    task, sites, labels = read_pairs(path)
    return ScaleTask(**task), Pairs(sites, torch.from_numpy(2 * labels.astype(np.int8) - 1))


def save_pair_probes(path: str | Path, dataset: str | Path, number: int, seed: int = 0) -> None:
    """Perturb the first test pairs by moves of one site and matching Gaussian noise, and write them as probes.

    Args:
        path: of the HDF5 file.
        dataset: file of :func:`save_pair_dataset`.
        number: P.
        seed: of the whole run.
    """
    task, pairs = load_test_pairs(dataset)
    if number > len(pairs):
        raise ValueError(
            f"expected at most {len(pairs)} probes, the number of test pairs (scale_detection.images.test_pairs), got {number} "
            f"(config.yaml: scale_detection.probes)"
        )
    name = read_dataset_name(dataset)
    probes = make_pair_probes(task, pairs.sites[:number], generator=make_generator("pair probes", name, seed))
    write_probes(path, probes, name, {"images": number, "noise": "gaussian"}, seed)
