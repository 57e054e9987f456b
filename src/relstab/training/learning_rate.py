"""The schedule of the learning rate: linear warm-up, then cosine or constant (paper, appendix B)."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relstab.config import Training

__all__ = ["learning_rate"]


def learning_rate(step: int, steps_per_epoch: int, recipe: "Training") -> float:
    """Rate of one step: linear warm-up, then cosine to 0 over ``schedule_fraction`` of the epochs, or constant.

    The warm-up takes at most half of these epochs, so that a training of few epochs does not end before it begins.

    Args:
        step: from 0.
        steps_per_epoch: batches an epoch.
        recipe: schedule, rate and number of epochs.
    """
    scheduled = recipe.schedule_fraction * recipe.epochs * steps_per_epoch
    warmup = min(recipe.warmup_epochs * steps_per_epoch, scheduled / 2)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    progress = min((step - warmup) / (scheduled - warmup), 1.0)
    return recipe.learning_rate * (1 + math.cos(math.pi * progress)) / 2
