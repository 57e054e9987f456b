"""What benchmarks of training share: the clock, images of noise, and the loop of `relstab.train_network` stopped in its steps."""

import contextlib
import io
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch

import relstab
from relstab.config import Training
from relstab.files.dataset import Dataset
from relstab.training import train as training
from relstab.training.run import TrainingRun


def seconds_a_step(step: Callable[[], None], device: str, seconds: float, together: int = 1) -> float:
    """Time of one step, over steps that are repeated for some seconds after a warm-up; the clock is read after ``together``."""

    def now() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(3):
        step()
    start, done = now(), 0
    while done < 3 or now() - start < seconds:
        for _ in range(together):
            step()
        done += together
    return (now() - start) / done


def synthetic(count: int, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> Dataset:
    """``count`` training images of noise, and 100 test images."""
    rng = np.random.default_rng(0)
    counts = {"train": count, "test": 100}
    pixels = {part: rng.integers(0, 256, (number, *shape), dtype=np.uint8) for part, number in counts.items()}
    # In turn, so that no class is missing.
    labels = {part: np.arange(number) % classes for part, number in counts.items()}
    mean, std = (np.full(shape[0], value, np.float32) for value in (0.5, 0.29))
    return Dataset("synthetic", pixels, labels, mean, std)


def seconds_a_training_step(
    name: str, recipe: Training, dataset: Dataset, device: str, seconds: float, together: int = 1
) -> float:
    """Seconds of one step of a network, in the loop that trains it."""
    found = []

    def time_it(run: TrainingRun, look: Callable[[], None]) -> None:
        run.model.train()

        def step() -> None:
            if run.epoch.position == run.steps_per_epoch:
                run.begin_epoch(run.epoch.number + 1)
            run.checked_step()
            look()

        found.append(seconds_a_step(step, device, seconds, together))

    test = torch.zeros(100, *dataset.image_shape), torch.zeros(100, dtype=torch.int64)
    with mock.patch.object(training, "_train", time_it), contextlib.redirect_stdout(io.StringIO()):
        relstab.train_network(name, dataset, test, recipe, 0.0, 0, device=device)
    return found[0]
