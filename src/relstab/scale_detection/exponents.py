"""How sensitivities scale with the effective receptive field: predicted exponents, and exponents fitted to what was measured.

For networks that pool spatially (paper, section 4), G_k ~ A_k and D_k ~ A_k^(-alpha_s), with alpha_s = 2 for stride 1 and 1 for
strides s = F.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relstab.bootstrap import Bootstrap, Interval
from relstab.scale_detection.homogeneous import autocorrelations, exact_autocorrelations

__all__ = ["Exponents", "fit_exponent", "predicted_exponents"]

Array = NDArray[np.float64]

# The layer at which exponents for strides are taken: the contributions of other eigenvalues have died out by then.
_DEEP = 60


@dataclass(frozen=True)
class Exponents:
    """Asymptotic exponents of a network of homogeneous filters.

    Attributes:
        D: of D_k against A_k: minus alpha_s.
        G: of G_k against A_k, for noise with a mean: 1.
        growth: A_k ~ growth^k with strides; 1 for stride 1, where A_k ~ sqrt(k).
    """

    D: float
    G: float
    growth: float


def predicted_exponents(filter_size: int, stride: int) -> Exponents:
    """Exponents for filters of F sites and stride s, from the closed forms of :mod:`relstab.scale_detection.homogeneous`.

    Stride 1: D_k ~ A_k^-2 with A_k ~ sqrt(k), diffusion. Stride s = F: D_k ~ A_k^-1 with A_k = s^k, since a move matters when it
    crosses one of the borders between windows, which are A_k apart. In between, windows overlap, and the exponent is that at
    which the autocorrelation of the composite filter falls beside its maximum. It is 2 for F = 4, s = 2, whose composite filter
    has no jumps. It is 0 where F is no multiple of s: some sites are then in more windows than their neighbours, in every layer
    again, and pooling does not make the layers less sensitive to a move from one to the other.

    Args:
        filter_size: F, at least 2.
        stride: s, from 1 to F.
    """
    if stride == 1:
        autocorrelations(filter_size, stride, 1)  # checks the arguments
        return Exponents(-2.0, 1.0, 1.0)
    c = exact_autocorrelations(filter_size, stride, _DEEP)
    # Fractions of whole numbers: the difference between neighbours may be 10^-18 of either.
    fall = [Fraction(here - beside, here) for here, beside in c[-2:]]
    growth = Fraction(filter_size**2 * c[-2][0], c[-1][0])
    alpha = (math.log(fall[0]) - math.log(fall[1])) / math.log(growth)
    return Exponents(-round(alpha, 12) + 0.0, 1.0, round(float(growth), 12))


def _slopes(log_field: Array, log_sensitivity: Array) -> Array:
    """Least-squares slope of log X_k against log A_k over layers, [networks], from both, [networks, layers]."""
    x = log_field - log_field.mean(1, keepdims=True)
    return np.asarray((x * log_sensitivity).sum(1) / (x * x).sum(1))


def fit_exponent(
    receptive_field: ArrayLike,
    sensitivity: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    layers: Callable[[Array], NDArray[np.int64]] | None = None,
) -> Interval:
    """Mean over networks of the least-squares slope of log X_k against log A_k over layers, with its bootstrap interval.

    Args:
        receptive_field: A_k, [networks, layers] or [layers], positive.
        sensitivity: X_k, D_k or G_k, [networks, layers], positive.
        confidence, resamples, seed: of the interval.
        layers: how many layers the slope is over, counted from the first, in the sample and in each resample, [1 + resamples],
            as a function of the share of each network in it, [1 + resamples, networks]; by default all. A resample takes at least
            two. A network without a value in a layer that the sample does not use is left out of the resamples that use it.
    """
    field, values = np.atleast_2d(np.asarray(receptive_field, float)), np.atleast_2d(np.asarray(sensitivity, float))
    field = np.broadcast_to(field, values.shape)
    bootstrap = Bootstrap(np.arange(len(values)), resamples, seed)
    counts = np.full(1 + resamples, values.shape[1]) if layers is None else layers(bootstrap.counts / len(values))
    used = counts[0]
    if used < 2:
        raise ValueError(f"expected at least 2 layers for a slope, got {used}")
    if not ((field > 0) & (values > 0))[:, :used].all():
        raise ValueError(
            "expected positive receptive fields and sensitivities, whose logarithms are taken, got values of 0 or less"
        )
    counts = np.maximum(counts, 2)
    statistic = np.empty(1 + resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = np.log(field), np.log(values)
        for count in np.unique(counts):
            slopes = _slopes(x[:, :count], y[:, :count])
            usable = np.isfinite(slopes)
            weights = bootstrap.counts[counts == count][:, usable]
            statistic[counts == count] = (weights * slopes[usable]).sum(1) / weights.sum(1)
    return bootstrap.interval(statistic, confidence)
