"""The schedule of the learning rate: linear warm-up, then cosine or constant (paper, appendix B)."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relstab.config import Training

__all__ = ["learning_rate"]


def learning_rate(step: int, steps_per_epoch: int, recipe: "Training") -> float:
    """Learning rate of one step: linear warm-up, then a cosine or constant.

    After t of E epochs, with f the share of the epochs over which it falls (``schedule_fraction``), the cosine is

        learning_rate * (1 + cos(pi t / (f E))) / 2.

    It is 0 for one step, at t = f E, and rises again after it, as torch's CosineAnnealingLR(T_max = f E) does when it is stepped
    on: with f = 0.8 and E = 250, as in the reference, from 0.1 to 0.0141 in the last epoch. torch's learning rate of an epoch is
    the one at its start.

    The warm-up takes at most half of the f E epochs, so that a training run of few epochs does not end before it begins.

    Args:
        step: from 0.
        steps_per_epoch: batches per epoch.
        recipe: schedule, learning rate and number of epochs.
    """
    scheduled = recipe.schedule_fraction * recipe.epochs * steps_per_epoch
    warmup = min(recipe.warmup_epochs * steps_per_epoch, scheduled / 2)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    progress = (step - warmup) / (scheduled - warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * progress)) / 2
