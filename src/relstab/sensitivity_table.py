"""From the sums of a layer to D, G, R and their standard errors.

This module needs no torch, so that tables are read and written without loading it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "MEDIANS", "LayerSums", "ratio_and_error", "sensitivity_rows"]

MEDIANS = ["D_median", "G_median", "R_median"]
COLUMNS = ["layer", "kind", "index", "depth", "D", "G", "R", "D_sem", "G_sem", "R_sem", "denominator", *MEDIANS]


@dataclass(frozen=True)
class LayerSums:
    """Sums behind D, G and R of one layer, or behind S of other perturbations, and their standard errors.

    Attributes:
        layer: name in ``model.named_modules()``, or "input" or "output".
        kind: class of the module, or "input" or "output".
        numerators: |f(T x) - f(x)|^2 for each perturbation T, [V, P]; tau and eta for D and G.
        spread: |f(x) - m|^2 up to a constant, [P]. m is an estimate of the mean from at least half of the images before x. The
            spread says how each image moves the denominator; only the standard errors of D and G use it.
        denominator: mean of |f(x1) - f(x2)|^2 over all P^2 pairs.
        is_constant: whether f is the same for all images, up to rounding.
        medians: D and G with medians in place of means, see :func:`relstab.layer_sums.median_sensitivities`; NaN if not measured.
    """

    layer: str
    kind: str
    numerators: NDArray[np.float64]
    spread: NDArray[np.float64]
    denominator: float
    is_constant: bool
    medians: tuple[float, float] = (math.nan, math.nan)

    @property
    def diffeo(self) -> NDArray[np.float64]:
        """|f(tau x) - f(x)|^2, [P]."""
        diffeo: NDArray[np.float64] = self.numerators[0]
        return diffeo

    @property
    def noise(self) -> NDArray[np.float64]:
        """|f(x + eta) - f(x)|^2, [P]."""
        noise: NDArray[np.float64] = self.numerators[1]
        return noise


def ratio_and_error(numerator: NDArray[np.float64], denominator: float, influence: NDArray[np.float64]) -> tuple[float, float]:
    """Ratio of ``numerator``'s mean to ``denominator`` and its standard error by the delta method.

    ``influence`` is how each image moves the denominator: d / d(weight of the image), up to a constant. Then
    psi_i = (a_i - mean a) / b - (mean a / b^2) (influence_i - mean influence) and sem^2 = sum psi^2 / (P (P - 1)).
    """
    if denominator == 0:
        return math.nan, math.nan
    count = len(numerator)
    ratio = numerator.mean() / denominator
    psi = (numerator - numerator.mean() - ratio * (influence - influence.mean())) / denominator
    return float(ratio), float(np.sqrt(np.square(psi).sum() / (count * (count - 1))))


def sensitivity_rows(sums: Sequence[LayerSums]) -> list[dict[str, Any]]:
    """D, G and R with standard errors: one row of :data:`COLUMNS` per layer.

    A representation that is the same for all images has denominator 0 and no sensitivity: its D, G and R are NaN.

    Args:
        sums: from :func:`relstab.sensitivity.accumulate_sums`.
    """
    rows = []
    last = len(sums) - 1
    for index, layer in enumerate(sums):
        diffeo, noise = layer.diffeo, layer.noise
        denominator = 0.0 if layer.is_constant else layer.denominator
        # One more image of weight w changes the denominator 2 mean|f - m|^2 by 2 w (|f_i - m|^2 - mean).
        d, d_sem = ratio_and_error(diffeo, denominator, 2 * layer.spread)
        g, g_sem = ratio_and_error(noise, denominator, 2 * layer.spread)
        r, r_sem = ratio_and_error(diffeo, noise.mean() if denominator else 0.0, noise)
        depth = index / last if last else 0.0
        d_median, g_median = layer.medians
        medians = (d_median, g_median, d_median / g_median if g_median else math.nan)
        row = (layer.layer, layer.kind, index, depth, d, g, r, d_sem, g_sem, r_sem, denominator, *medians)
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows
