"""How long the trainings of a config take: each of its architectures is timed for some steps of its own recipe on this machine.

Deep networks on the data set and on images with two lit pixels, and simple CNNs on rings, as `relstab` trains them. Of a
network, hours are its epochs times its images over the measured images per second; evaluation hours are those of its test images
after each epoch; measuring and figures are in neither. Simple CNNs are given all of their epochs, of which most need fewer; with
a ridge, the least that it asks for where the training loss is zero after --interpolation epochs.

Beside them stands an estimate for a GPU, for which nothing is measured: floating-point operations (three times those of the
forward pass) at a tenth of 312e12 a second, the dense bfloat16 of an A100 (simple CNNs: at three tenths of its 19.5e12 in
float32), but no step in less than 5 ms, about what starting its kernels takes. `--device cuda` measures instead.

    python benchmarks/grid.py CONFIG [--device cuda] [--seconds 8] [--threads 1] [--interpolation 10] [--table TABLE.csv]
"""

import argparse
import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

import relstab
from relstab.architectures import ARCHITECTURES, own_architectures
from relstab.config import Config, Training, load_config
from relstab.scale_detection import ensemble_training
from relstab.scale_detection.design import EnsembleRecipe, SimpleDesign
from relstab.scale_detection.tasks import ScaleTask, split_pairs

from timing import Rates, done_at, rates_of_training, synthetic

ROOT = Path(__file__).parents[1]
# Training images, image shape, classes and test images of the data sets that are published.
PUBLISHED = {
    "mnist5k": (4000, (1, 28, 28), 10, 1000),
    "mnist": (60000, (1, 28, 28), 10, 10000),
    "fashionmnist": (60000, (1, 28, 28), 10, 10000),
    "cifar10": (50000, (3, 32, 32), 10, 10000),
    "cifar100": (50000, (3, 32, 32), 100, 10000),
    "svhn": (73257, (3, 32, 32), 10, 26032),
}
GPU_RATE = 0.1 * 312e12
# Simple CNNs are trained in full precision, as one product of matrices a layer.
GPU_RATE_RINGS = 0.3 * 19.5e12
GPU_STEP = 5e-3


class EnoughError(Exception):
    """Ends a training run when it has been timed."""


def config_of(file: str) -> Config:
    from snakemake.utils import update_config

    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(raw, yaml.safe_load(Path(file).read_text()))
    config = load_config(raw, file)
    own_architectures(config.model_dump()["own_architectures"])
    return config


def operations(name: str, recipe: Training, shape: tuple[int, int, int], classes: int) -> float:
    """Floating-point operations of a training step, per image."""
    model = relstab.build_model(name, shape, classes, recipe.width, recipe.activation, recipe.pooling).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    return 3.0 * counter.get_total_flops()


class Networks(NamedTuple):
    """Deep networks of one architecture that train on the same images.

    Attributes:
        kind: "data set" or "pairs".
        name: architecture.
        recipe: how each is trained.
        networks: how many.
        images: training images.
        shape, classes: of the images.
        test_images: on which each is evaluated after an epoch.
    """

    kind: str
    name: str
    recipe: Training
    networks: int
    images: int
    shape: tuple[int, int, int]
    classes: int
    test_images: int

    @property
    def steps(self) -> int:
        """Steps of all of them."""
        per_epoch = self.recipe.steps_per_epoch or -(-self.images // self.recipe.batch_size)
        return self.networks * self.recipe.epochs * per_epoch

    @property
    def evaluated(self) -> int:
        """Test images that all of them see in all evaluations."""
        return self.networks * self.recipe.epochs * self.test_images


def deep_networks(config: Config, images: int | None = None) -> Iterator[Networks]:
    """All deep networks of a config, by architecture and size of the training set.

    Args:
        config: with the number of training images, unless its data set is published.
        images: that number where the config does not say it.
    """
    count, shape, classes, test = PUBLISHED.get(config.data.name, (0, (3, 32, 32), 10, 10_000))
    asked = config.data.kept_training_images
    sizes = [images] if images else asked if isinstance(asked, list) else [asked or count]
    if not all(sizes):
        raise SystemExit(f"the number of training images of {config.data.name} is not known: give --images N")
    for name in config.architectures:
        networks = len(config.seeds_of(name)) * len(config.noise)
        for size in sizes:
            recipe = config.training_of(name)
            yield Networks("data set", name, recipe, networks, size, shape, classes, config.data.test_images or test)
    pairs = config.scale_detection.images
    for name in config.scale_detection.architectures:
        size = (1, pairs.size, pairs.size)
        seeds = len(pairs.seeds_of(name))
        yield Networks("pairs", name, pairs.training_of(name), seeds, pairs.train_pairs, size, 2, pairs.test_pairs)


def step_of_ensemble(
    task: ScaleTask, pairs: int, design: SimpleDesign, recipe: EnsembleRecipe, seeds: int, device: str, seconds: float
) -> float:
    """Seconds of one step of all members, in the loop that trains them."""
    train, others = split_pairs(task.enumerate(), pairs)
    marks: list[float] = []
    together, steps = 1 if device == "cpu" else 16, itertools.count()

    def look() -> None:
        if next(steps) % together:
            return  # to look is to wait
        marks.append(done_at(device))
        if len(marks) > 4 and marks[-1] - marks[0] > seconds:
            raise EnoughError

    def time_it(run: ensemble_training._EnsembleRun, _look: Callable[[], None]) -> None:
        with contextlib.suppress(EnoughError):
            run.run_epoch(look)

    with mock.patch.object(ensemble_training, "_train", time_it):
        ensemble_training.train_ensemble(task, train, design, recipe, range(seeds), device=device, validation=others)
    return float(np.median(np.diff(marks[1:]))) / together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, help="training images, where the data set is your own")
    parser.add_argument("--interpolation", type=int, default=10, help="epochs to zero training loss, of simple CNNs with a ridge")
    parser.add_argument("--table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = config_of(options.config)
    rows = []
    timed: dict[str, Rates] = {}
    for group in deep_networks(config, options.images):
        recipe, case = group.recipe, f"{group.kind}, {group.name}"
        if case not in timed:  # the size of the training set changes no step
            # A rate at which nothing diverges on noise; it changes no time.
            slow = recipe.model_copy(update={"learning_rate": 1e-4, "snapshots": 0})
            noise = synthetic(20 * recipe.batch_size, group.shape, group.classes)
            test, together = (200, 1) if options.device == "cpu" else (10_000, 20)
            timed[case] = rates_of_training(group.name, slow, noise, options.device, options.seconds, test, together)
            print(f"{case}: {recipe.batch_size / timed[case].step:,.0f} images/s", flush=True)
        steps, (seconds, evaluation, _) = group.steps, timed[case]
        work = operations(group.name, recipe, group.shape, group.classes) * steps * recipe.batch_size
        gpu = max(work / GPU_RATE, steps * GPU_STEP)
        label = ARCHITECTURES[group.name].label
        if config.data.training_sizes != [None] and group.kind == "data set":
            label += f", P = {group.images}"
        speed, hours, evaluating = recipe.batch_size / seconds, steps * seconds / 3600, group.evaluated * evaluation / 3600
        rows.append((group.kind, label, group.networks, speed, hours, evaluating, work, gpu / 3600))
    for name, experiment in config.scale_detection.experiments.items():
        for activation in experiment.activations:
            recipe = EnsembleRecipe(**experiment.recipe(activation))
            design = SimpleDesign(**experiment.design(activation))
            task = ScaleTask(**experiment.task())
            seconds = step_of_ensemble(task, experiment.pairs, design, recipe, experiment.seeds, options.device, options.seconds)
            epochs = recipe.epochs + recipe.decay_epochs
            if recipe.ridge:
                epochs = min(epochs, recipe.interpolation_factor * options.interpolation)
            steps = epochs * -(-experiment.pairs // recipe.batch_size)
            # Each weight of a filter is multiplied at each site, for each image of each member.
            sites = [task.size, *design.sizes(task.size)]
            channels = [1, *[design.channels] * design.depth]
            forward = sum(2 * sites[k + 1] * channels[k] * channels[k + 1] * design.filter_size for k in range(design.depth))
            work = 3.0 * forward * steps * recipe.batch_size * experiment.seeds
            gpu = max(work / GPU_RATE_RINGS, steps * GPU_STEP)
            images = experiment.seeds * recipe.batch_size / seconds
            rows.append(
                ("rings", f"{name}, {activation}", experiment.seeds, images, steps * seconds / 3600, 0.0, work, gpu / 3600)
            )
            print(f"rings, {name}, {activation}: {seconds:.3f} s a step", flush=True)
    columns = ["kind", "network", "networks", "images_per_s", "hours", "evaluation_hours", "operations", "gpu_hours_estimated"]
    table = pd.DataFrame(rows, columns=columns)
    pd.set_option("display.width", 200)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    sums = ["networks", "hours", "evaluation_hours", "operations", "gpu_hours_estimated"]
    print(table.groupby("kind")[sums].sum().to_string())
    print(table[sums].sum().to_string())
    if options.table:
        table.to_csv(options.table, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
