"""What benchmarks of training share: the clock, images of noise, and work in the place of the loop of `relstab.train_network`."""

import contextlib
import functools
import io
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar
from unittest import mock

import numpy as np
import torch

import relstab
from relstab.config import Training
from relstab.files.dataset import Dataset
from relstab.training import train as training
from relstab.training.training_run import TrainingRun


def done_at(device: str) -> float:
    """The clock, when all work that the device has is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_a_step(step: Callable[[], None], device: str, seconds: float, together: int = 1) -> float:
    """Time of one step, over steps that are repeated for some seconds after a warm-up; the clock is read after ``together``."""

    def now() -> float:
        return done_at(device)

    # A step on a GPU is captured as a graph after a few.
    for _ in range(3 if device == "cpu" else 6):
        step()
    start, done = now(), 0
    while done < 3 or now() - start < seconds:
        for _ in range(together):
            step()
        done += together
    return (now() - start) / done


@functools.cache
def synthetic(count: int, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> Dataset:
    """``count`` training images of noise, and 100 test images."""
    rng = np.random.default_rng(0)
    counts = {"train": count, "test": 100}
    pixels = {part: rng.integers(0, 256, (number, *shape), dtype=np.uint8) for part, number in counts.items()}
    # In turn, so that no class is missing.
    labels = {part: np.arange(number) % classes for part, number in counts.items()}
    mean, std = (np.full(shape[0], value, np.float32) for value in (0.5, 0.29))
    return Dataset("synthetic", pixels, labels, mean, std)


Work = TypeVar("Work")


def in_training(
    name: str,
    recipe: Training,
    dataset: Dataset,
    device: str,
    work: Callable[[TrainingRun], Work],
    test_images: int = 100,
    sigma: float = 0.0,
) -> Work:
    """What ``work`` makes of a training run that is prepared and not begun, in the place of the loop that trains it."""
    found = []

    def instead(run: TrainingRun, _maybe_save: Callable[[], None]) -> None:
        run.model.train()
        found.append(work(run))

    noise = torch.randn(test_images, *dataset.image_shape, generator=torch.Generator().manual_seed(0))
    test = noise, torch.arange(test_images) % dataset.classes
    with mock.patch.object(training, "_train", instead), contextlib.redirect_stdout(io.StringIO()):
        relstab.train_network(name, dataset, test, recipe, sigma, 0, device=device)
    return found[0]


def next_step(run: TrainingRun) -> None:
    """One step of a training run, whose epochs follow each other without evaluation."""
    if run.epoch.position == run.steps_per_epoch:
        run.begin_epoch(run.epoch.number + 1)
    run.checked_step()


def seconds_a_training_step(
    name: str, recipe: Training, dataset: Dataset, device: str, seconds: float, together: int = 1
) -> float:
    """Seconds of one step of a network, in the loop that trains it."""

    def work(run: TrainingRun) -> float:
        return seconds_a_step(lambda: next_step(run), device, seconds, together)

    return in_training(name, recipe, dataset, device, work)


class Rates(NamedTuple):
    """What one network takes on one device.

    Attributes:
        step: seconds of a training step.
        evaluation: seconds to evaluate one image, as after an epoch.
        precision: of products and convolutions in training.
    """

    step: float
    evaluation: float
    precision: str


def rates_of_training(
    name: str, recipe: Training, dataset: Dataset, device: str, seconds: float, test_images: int, together: int = 1
) -> Rates:
    """How fast `relstab.train_network` trains a network and evaluates it, where the epoch is neither the last nor the best."""

    def work(run: TrainingRun) -> Rates:
        step = seconds_a_step(lambda: next_step(run), device, seconds, together)
        run.end_epoch(lambda: None)  # the best so far
        evaluations = []
        for _ in range(2):
            start = done_at(device)
            run.end_epoch(lambda: None)
            evaluations.append(done_at(device) - start)
        return Rates(step, min(evaluations) / len(run.test_images), run.network.precision)

    unending = recipe.model_copy(update={"epochs": 10**6, "snapshots": 0})
    return in_training(name, unending, dataset, device, work, test_images)
