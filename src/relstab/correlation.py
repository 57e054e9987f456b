"""Correlation of test error and sensitivity over networks, on logarithmic scales."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bootstrap_log_correlation", "log_correlation", "percentile_interval"]


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
    log_error, log_sensitivity = _logarithms(error, sensitivity)
    return float(_correlation(log_error, log_sensitivity))


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> Any:
    """Correlation coefficient along the last axis."""
    # Values that are all the same have no correlation; that their mean may differ from them by rounding must not give them one.
    constant = (x == x[..., :1]).all(-1) | (y == y[..., :1]).all(-1)
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    scale = np.where(constant, 0, np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip((x * y).sum(-1) / np.where(scale > 0, scale, np.nan), -1, 1)


def bootstrap_log_correlation(
    error: ArrayLike,
    sensitivity: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`log_correlation`, over networks drawn with replacement.

    Args:
        error, sensitivity: see :func:`log_correlation`.
        confidence: probability that the interval aims at, between 0 and 1.
        resamples: number of resampled sets of networks; those of fewer than three distinct networks, and those in which all
            networks agree, have no correlation and are left out.
        seed: of the resampling.

    Returns:
        The two ends of the interval; NaN with fewer than 4 networks, too few to resample.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"expected confidence to be between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"expected resamples to be at least 1, got {resamples}")
    x, y = _logarithms(error, sensitivity)
    if len(x) < 4:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    # Two distinct networks always have correlation 1 or -1: resamples of fewer than three say nothing.
    distinct = (np.diff(np.sort(drawn, axis=1), axis=1) > 0).sum(1) + 1
    drawn = drawn[distinct >= 3]
    rho = _correlation(x[drawn], y[drawn])
    return percentile_interval(rho, confidence)


def percentile_interval(drawn: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Middle share ``confidence`` of bootstrap samples of a statistic; those that are NaN are left out, and all NaN gives NaN."""
    if np.isnan(drawn).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
