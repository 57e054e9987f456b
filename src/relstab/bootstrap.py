"""The bootstrap behind every interval: architectures are drawn with replacement, then networks within each of them.

Seeds of one architecture are near twins. An interval that draws single networks takes two seeds of seven architectures for 14
independent networks and comes out too narrow.

A statistic is computed for the sample and for all its resamples at once: it is an array [1 + resamples], the sample first.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LEAST_GROUPS", "Bootstrap", "Interval", "weighted_correlation"]

Array = NDArray[np.float64]

LEAST_GROUPS = 4
"""Least number of groups to resample: with fewer there is no interval."""

# Two distinct points always have correlation 1 or -1: resamples of fewer than three distinct groups say nothing.
_DISTINCT = 3


class Interval(NamedTuple):
    """A statistic of the sample, and the two ends of its interval (NaN where there is none)."""

    value: float
    low: float
    high: float


def _centred(values: ArrayLike, weights: Array) -> Array:
    """Values minus their weighted mean, along the last axis; 0 where the weight is 0."""
    values = np.broadcast_to(np.asarray(values, float), weights.shape)
    # Equal values have no variance. Rounding may make their mean differ from them, which must not give them a variance.
    first = np.take_along_axis(values, (weights > 0).argmax(-1)[..., None], -1)
    values = np.where(weights > 0, values - first, 0.0)
    return np.asarray(values - (weights * values).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True))


def weighted_correlation(x: ArrayLike, y: ArrayLike, weights: Array) -> Array:
    """Correlation coefficient along the last axis; NaN where either is the same for all with a positive weight."""
    a, b = _centred(x, weights), _centred(y, weights)
    scale = np.sqrt((weights * a**2).sum(-1) * (weights * b**2).sum(-1))
    return np.asarray(np.clip((weights * a * b).sum(-1) / np.where(scale > 0, scale, np.nan), -1, 1))


class Bootstrap:
    """A sample of networks, and its resamples.

    Args:
        groups: architecture of each network, [networks]. With a single architecture, each network is a group of its own, and the
            interval is about that architecture.
        resamples: number of resamples.
        seed: of the resampling.

    Attributes:
        counts: how often each network is drawn, [1 + resamples, networks]; 1 each in the sample, the first row.
        group_count: number of groups that are drawn.
    """

    def __init__(self, groups: ArrayLike, resamples: int = 2000, seed: int = 0) -> None:
        if resamples < 1:
            raise ValueError(f"expected resamples to be at least 1, got {resamples}")
        names, group = np.unique(np.asarray(groups), return_inverse=True)
        if len(names) == 1:
            names = group = np.arange(len(group))
        self.group_count = len(names)
        self.counts = np.ones((1 + resamples, len(group)))
        self._rng = np.random.default_rng(seed)
        self._distinct = np.full(1 + resamples, min(len(group), _DISTINCT))
        if len(names):
            drawn = self._rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
            self._distinct[1:] = (drawn > 0).sum(1)
            self.counts[1:] = drawn[:, group]
            for number in np.flatnonzero(np.bincount(group) > 1):
                members = np.flatnonzero(group == number)
                shares = np.full(len(members), 1 / len(members))
                self.counts[1:, members] = self._rng.multinomial(drawn[:, number] * len(members), shares)

    def errors(self, error: ArrayLike, test_images: ArrayLike) -> Array:
        """Test errors, [1 + resamples, networks]: as measured, then drawn from the binomial distribution of each.

        An error of 0 has no logarithm. It counts as half a test image, in the sample, in the draws and as their probability.

        Args:
            error: share of the test images that a network gets wrong, [networks].
            test_images: number of test images behind each error.
        """
        images = np.broadcast_to(np.asarray(test_images, int), np.shape(error))
        least = 0.5 / images
        measured = np.maximum(np.asarray(error, float), least)
        drawn = self._rng.binomial(images, np.minimum(measured, 1), (len(self.counts) - 1, len(measured))) / images
        return np.concatenate([measured[None], np.maximum(drawn, least)])

    def mean(self, values: ArrayLike) -> Array:
        """Mean of one number per network, [networks], in the sample and its resamples; NaN without networks."""
        if not self.counts.shape[1]:
            return np.full(len(self.counts), np.nan)
        return np.asarray((self.counts * np.asarray(values, float)).sum(1) / self.counts.sum(1))

    def correlation(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Correlation coefficient of x and y, each [networks] or [1 + resamples, networks]."""
        return self._of_distinct(lambda weights: weighted_correlation(x, y, weights))

    def slope(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Least-squares slope of y against x, each [networks] or [1 + resamples, networks]."""

        def slope(weights: Array) -> Array:
            centred = _centred(x, weights)
            variance = (weights * centred**2).sum(-1)
            return np.asarray((weights * centred * _centred(y, weights)).sum(-1) / np.where(variance > 0, variance, np.nan))

        return self._of_distinct(slope)

    def _of_distinct(self, statistic: Any) -> Array:
        """A statistic that is NaN where fewer than three distinct groups (in the sample: networks) are drawn."""
        if self.counts.shape[1] < _DISTINCT:
            return np.full(len(self.counts), np.nan)
        return np.where(self._distinct >= _DISTINCT, statistic(self.counts), np.nan)

    def interval(self, statistic: Array, confidence: float = 0.95) -> Interval:
        """Percentile interval: the middle share ``confidence`` of a statistic over the resamples where it is not NaN.

        With fewer than 4 groups, and where the statistic is NaN in all resamples, there is no interval.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"expected confidence to be between 0 and 1, got {confidence}")
        value = float(statistic[0])
        if self.group_count < LEAST_GROUPS or np.isnan(statistic[1:]).all():
            return Interval(value, np.nan, np.nan)
        low, high = np.nanquantile(statistic[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(value, float(low), float(high))
