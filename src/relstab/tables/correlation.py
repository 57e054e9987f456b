"""Correlation of test error and sensitivity over networks, on logarithmic scales."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relstab.bootstrap import Bootstrap, weighted_correlation

__all__ = ["bootstrap_log_correlation", "log_correlation"]


def _array(values: Any) -> NDArray[np.float64]:
    """Numbers as an array, also those of a tensor on another device or with gradients."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, float)


def _logarithms(error: Any, sensitivity: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = {"error": _array(error), "sensitivity": _array(sensitivity)}
    shapes = [value.shape for value in values.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise ValueError(
            f"expected error and sensitivity of one shape, [networks] with at least 2, got {shapes[0]} and {shapes[1]}"
        )
    for name, value in values.items():
        if not (np.isfinite(value) & (value > 0)).all():
            bad = value[~(np.isfinite(value) & (value > 0))][0]
            raise ValueError(f"expected {name} to hold positive, finite numbers, since their logarithm is taken, got {bad:g}")
    return np.log(values["error"]), np.log(values["sensitivity"])


def log_correlation(error: ArrayLike, sensitivity: ArrayLike) -> float:
    """Correlation coefficient of the logarithms over networks (paper, caption of figure 1).

    rho = Cov(log eps, log X) / sqrt(Var(log eps) Var(log X)).

    Args:
        error: eps, [networks], positive.
        sensitivity: X, [networks], positive: D, G or R of the output.

    Returns:
        rho in [-1, 1]; NaN when either is the same for all networks.
    """
    x, y = _logarithms(error, sensitivity)
    return float(weighted_correlation(x, y, np.ones(len(x))))


def bootstrap_log_correlation(
    error: ArrayLike,
    sensitivity: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    architectures: ArrayLike | None = None,
    test_images: ArrayLike | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`log_correlation`: architectures are drawn with replacement, then networks within.

    Args:
        error, sensitivity: see :func:`log_correlation`.
        confidence: probability that the interval aims at, between 0 and 1.
        resamples: number of resampled sets of networks; those of fewer than three distinct architectures, and those in which all
            networks agree, have no correlation and are left out.
        seed: of the resampling.
        architectures: architecture of each network, [networks]; None: the networks are independent of each other.
        test_images: number of test images behind each error, to draw each error from its binomial distribution; None: errors
            are exact.

    Returns:
        The two ends of the interval; NaN with fewer than 4 architectures, too few to resample.
    """
    x, y = _logarithms(error, sensitivity)
    bootstrap = Bootstrap(np.arange(len(x)) if architectures is None else architectures, resamples, seed)
    errors = x if test_images is None else np.log(bootstrap.errors(np.exp(x), test_images))
    return bootstrap.interval(bootstrap.correlation(errors, y), confidence)[1:]
