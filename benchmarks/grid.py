"""How long the trainings of a config take: each of its architectures is timed for some steps of its own recipe on this machine.

Deep networks on the data set and on images with two lit pixels, and simple CNNs on rings, as `relstab` trains them. Of a
network, hours are its epochs times its images over the measured images per second; evaluation, measuring and figures
are not in them. Simple CNNs are given all of their epochs, of which most need fewer; with a ridge, the least that it asks for
where the training loss is zero after --interpolation epochs.

Beside them stands an estimate for a GPU, for which nothing is measured: floating-point operations (three times those of the
forward pass) at a tenth of 312e12 a second, the dense bfloat16 of an A100 (simple CNNs: at three tenths of its 19.5e12 in
float32), but no step in less than 5 ms, about what starting its kernels takes. `--device cuda` measures instead.

    python benchmarks/grid.py CONFIG [--device cuda] [--seconds 8] [--threads 1] [--interpolation 10] [--table TABLE.csv]
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
import yaml
from snakemake.utils import update_config
from torch.utils.flop_counter import FlopCounterMode

import relstab
from relstab.architectures import ARCHITECTURES, own_architectures
from relstab.config import Config, Training, load_config
from relstab.scale_detection import ensemble_training
from relstab.scale_detection.design import EnsembleRecipe, SimpleDesign
from relstab.scale_detection.tasks import ScaleTask, split_pairs

from timing import seconds_a_training_step, synthetic

ROOT = Path(__file__).parents[1]
# Training images, image shape and classes of the data sets that are published.
PUBLISHED = {
    "mnist5k": (4000, (1, 28, 28), 10),
    "mnist": (60000, (1, 28, 28), 10),
    "fashionmnist": (60000, (1, 28, 28), 10),
    "cifar10": (50000, (3, 32, 32), 10),
    "cifar100": (50000, (3, 32, 32), 100),
    "svhn": (73257, (3, 32, 32), 10),
}
GPU_RATE = 0.1 * 312e12
# Simple CNNs are trained in full precision, as one product of matrices a layer.
GPU_RATE_RINGS = 0.3 * 19.5e12
GPU_STEP = 5e-3


class EnoughError(Exception):
    """Ends a training run when it has been timed."""


def config_of(file: str) -> Config:
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


def deep_networks(config: Config, images: int | None) -> Iterator[tuple[str, str, Training, int, int, tuple[int, int, int], int]]:
    """Kind, architecture, recipe, number of networks, training images, shape and classes of all deep networks."""
    count, shape, classes = PUBLISHED.get(config.data.name, (0, (3, 32, 32), 10))
    count = images or config.data.train_images or count
    if not count:
        raise SystemExit(f"the number of training images of {config.data.name} is not known: give --images N")
    for name in config.architectures:
        networks = len(config.seeds_of(name)) * len(config.noise)
        yield "data set", name, config.training_of(name), networks, count, shape, classes
    pairs = config.scale_detection.images
    for name in config.scale_detection.architectures:
        size = (1, pairs.size, pairs.size)
        yield "pairs", name, pairs.training_of(name), len(pairs.seeds_of(name)), pairs.train_pairs, size, 2


def step_of_ensemble(
    task: ScaleTask, pairs: int, design: SimpleDesign, recipe: EnsembleRecipe, seeds: int, device: str, seconds: float
) -> float:
    """Seconds of one step of all members, in the loop that trains them."""
    train, others = split_pairs(task.enumerate(), pairs)
    marks: list[float] = []

    def look() -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        if len(marks) > 4 and marks[-1] - marks[0] > seconds:
            raise EnoughError

    def time_it(run: ensemble_training._EnsembleRun, _look: Callable[[], None]) -> None:
        with contextlib.suppress(EnoughError):
            run.run_epoch(look)

    with mock.patch.object(ensemble_training, "_train", time_it):
        ensemble_training.train_ensemble(task, train, design, recipe, range(seeds), device=device, validation=others)
    return float(np.median(np.diff(marks[1:])))


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
    for kind, name, recipe, networks, images, shape, classes in deep_networks(config, options.images):
        # A rate at which nothing diverges on noise; it changes no time.
        slow = recipe.model_copy(update={"learning_rate": 1e-4, "snapshots": 0})
        noise = synthetic(20 * recipe.batch_size, shape, classes)
        seconds = seconds_a_training_step(name, slow, noise, options.device, options.seconds)
        steps = networks * recipe.epochs * -(-images // recipe.batch_size)
        work = operations(name, recipe, shape, classes) * networks * recipe.epochs * images
        gpu = max(work / GPU_RATE, steps * GPU_STEP)
        rows.append(
            (kind, ARCHITECTURES[name].label, networks, recipe.batch_size / seconds, steps * seconds / 3600, work, gpu / 3600)
        )
        print(f"{kind}, {name}: {rows[-1][3]:,.0f} images/s", flush=True)
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
            rows.append(("rings", f"{name}, {activation}", experiment.seeds, images, steps * seconds / 3600, work, gpu / 3600))
            print(f"rings, {name}, {activation}: {seconds:.3f} s a step", flush=True)
    columns = ["kind", "network", "networks", "images_per_s", "hours", "operations", "gpu_hours_estimated"]
    table = pd.DataFrame(rows, columns=columns)
    pd.set_option("display.width", 200)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    print(table.groupby("kind")[["networks", "hours", "operations", "gpu_hours_estimated"]].sum().to_string())
    print(table[["networks", "hours", "operations", "gpu_hours_estimated"]].sum().to_string())
    if options.table:
        table.to_csv(options.table, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
