"""Networks with homogeneous filters, all of whose weights are equal: what spatial pooling does, in closed form (paper, appendix).

Layer k of such a network, with ReLU and no biases, sees an image through the composite filter h_k, which is F ones for k = 1 and

    h_k = (F ones) * (h_{k-1} with s - 1 zeros between its entries).

Let c_k(d) = sum over y of h_k(y) h_k(y + d) be its autocorrelation. The ring has L sites (a multiple of s^k, more than h_k has),
and an image has one lit site of height a anywhere. The deformation moves it by one site. The entries of the noise are independent
with mean m and variance v. If nothing is negative before a ReLU, the sensitivities of layer k are exactly

    A_k = F^(2k) / c_k(0)                                       effective receptive field, in sites of the input,
    D_k = (1 - c_k(1) / c_k(0)) / (1 - A_k / L),
    G_k = L (m^2 A_k + v) / (2 a^2 (1 - A_k / L)).

A_k is the participation ratio (sum h)^2 / sum h^2. For s = F it is s^k, and D_k = 1 / A_k up to the finite ring; for s = 1 it
grows as the square root of k, and D_k falls as 1 / A_k^2. G_k is proportional to A_k once noise with a mean has piled up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# The closed forms need no torch, because tables and figures use them.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from relstab.probes import Probes
    from relstab.scale_detection.tasks import ScaleTask

__all__ = [
    "HOMOGENEOUS",
    "HomogeneousTheory",
    "autocorrelations",
    "composite_filter",
    "exact_autocorrelations",
    "homogeneous_layers",
    "homogeneous_theory",
    "lit_site_probes",
    "pair_theory",
    "receptive_fields",
]


HOMOGENEOUS: dict[str, dict[str, int]] = {
    "homogeneous_stride1": {"filter_size": 5, "stride": 1, "depth": 12, "size": 256, "first_layer": 4},
    "homogeneous_strided": {"filter_size": 2, "stride": 2, "depth": 9, "size": 4096, "first_layer": 5},
}
"""Networks of homogeneous filters that every run measures, as the check of the theory, by their names in tables.

Exponents are fitted from the first layer on: at stride 1 the composite filter is smooth by then, and with strides its windows are
wide beside a move by one site.
"""


def _check(filter_size: int, stride: int, depth: int) -> None:
    if filter_size < 2:
        raise ValueError(f"expected filter_size to be at least 2, since a filter of one site pools nothing, got {filter_size}")
    if not 1 <= stride <= filter_size:
        raise ValueError(f"expected stride to be from 1 to filter_size = {filter_size}, got {stride}")
    if depth < 1:
        raise ValueError(f"expected depth to be at least 1, got {depth}")


def composite_filter(filter_size: int, stride: int, depth: int) -> NDArray[np.float64]:
    """h_k for k = ``depth``: how much each site of the input weighs in one site of layer k."""
    _check(filter_size, stride, depth)
    ones = np.ones(filter_size)
    composite = ones
    for _ in range(depth - 1):
        spread = np.zeros((len(composite) - 1) * stride + 1)
        spread[::stride] = composite
        composite = np.convolve(ones, spread)
    return composite


def exact_autocorrelations(filter_size: int, stride: int, depth: int) -> list[tuple[int, int]]:
    """c_k(0) and c_k(1) for k = 1 ... ``depth``, as whole numbers.

    With t(d) = max(F - |d|, 0), the autocorrelation of F ones, c_k(d) = sum over e of t(d - s e) c_{k-1}(e): with strides only
    few distances e matter, so that depth costs nothing.
    """
    _check(filter_size, stride, depth)
    # |d - s e| < F with |d| <= reach needs |e| <= (reach + F - 1) / s, which is at most reach itself for this one.
    reach = max(1, -(-(filter_size - 1) // (stride - 1))) if stride > 1 else max(1, depth * (filter_size - 1))
    current = {0: 1}
    found = []
    for _ in range(depth):
        following: dict[int, int] = {}
        for e, value in current.items():
            for offset in range(1 - filter_size, filter_size):
                d = stride * e + offset
                if abs(d) <= reach:
                    following[d] = following.get(d, 0) + (filter_size - abs(offset)) * value
        current = following
        found.append((current[0], current.get(1, 0)))
    return found


def autocorrelations(filter_size: int, stride: int, depth: int) -> NDArray[np.float64]:
    """c_k(0) and c_k(1) over F^(2k) for k = 1 ... ``depth``, [depth, 2]."""
    exact = exact_autocorrelations(filter_size, stride, depth)
    scaled = [[value / filter_size ** (2 * k) for value in pair] for k, pair in enumerate(exact, start=1)]
    return np.array(scaled)


def receptive_fields(filter_size: int, stride: int, depth: int) -> NDArray[np.float64]:
    """A_k for k = 1 ... ``depth``, [depth], in sites of the input: s^k for s = F, about sqrt(pi k (F^2 - 1) / 3) for s = 1."""
    return np.asarray(1 / autocorrelations(filter_size, stride, depth)[:, 0])


@dataclass(frozen=True)
class HomogeneousTheory:
    """Exact expectations by layer, k = 1 ... K.

    Attributes:
        receptive_field: A_k, [K].
        D, G: sensitivities, [K].
    """

    receptive_field: NDArray[np.float64]
    D: NDArray[np.float64]
    G: NDArray[np.float64]


def homogeneous_theory(
    filter_size: int, stride: int, depth: int, size: int, height: float, noise_mean: float, noise_variance: float
) -> HomogeneousTheory:
    """A_k, D_k and G_k in closed form, see above.

    Args:
        filter_size, stride, depth: F, s and K.
        size: L, sites of the ring.
        height: a, of the lit site.
        noise_mean, noise_variance: m and v of each entry of the noise.
    """
    if size % stride**depth or size < len(composite_filter(filter_size, stride, depth)):
        raise ValueError(
            f"expected size to be a multiple of stride^depth = {stride**depth}, and at least the "
            f"{len(composite_filter(filter_size, stride, depth))} sites of the composite filter, got {size}"
        )
    c = autocorrelations(filter_size, stride, depth)
    field = 1 / c[:, 0]
    finite = 1 - field / size
    with np.errstate(divide="ignore", invalid="ignore"):
        d = (1 - c[:, 1] / c[:, 0]) / finite
        g = size * (noise_mean**2 * field + noise_variance) / (2 * height**2 * finite)
    return HomogeneousTheory(field, d, g)


def _overlap(task: ScaleTask, filter_size: int, stride: int, layer: int, field: float) -> float:
    """q_k: how much the responses of layer k to the two sites of a pair overlap, over balanced classes.

    It is the mean of c_k(d) / c_k(0) over the distances d of the pairs of each label. For blocks and s = F the positions of the
    pairs matter as well: there it is the share of pairs within one window.
    """
    if task.rule == "block" and stride > 1:
        together = (task.size / field) * field * (field - 1) / 2
        same, different = task.counts
        return (min(together / same, 1) + max(together - same, 0) / different) / 2
    size, half = task.size, task.size // 2
    overlap = np.zeros(half + 1)
    if stride > 1:
        overlap = np.maximum(1 - np.arange(half + 1) / field, 0)
    else:
        composite = composite_filter(filter_size, 1, layer)
        c = np.correlate(composite, composite, "full")[len(composite) - 1 :]
        # Round the ring, from either side.
        for d in range(half + 1):
            overlap[d] = (c[d::size].sum() + c[size - d :: size].sum()) / c[0]
    distances = np.arange(1, half + 1)
    pairs = np.where(2 * distances < size, size, size / 2)
    if task.rule == "distance":
        sides = np.array([task.side(int(d) ** 2) for d in distances])
        weights = [pairs * (sides == label) for label in (1, -1)]
    else:  # of the pairs at distance d, scale - d in every block are in the same one
        same_block = (size // task.scale) * np.maximum(task.scale - distances, 0)
        weights = [same_block, pairs - same_block]
    return float(np.mean([np.average(overlap[1:], weights=weight) for weight in weights]))


def pair_theory(task: ScaleTask, filter_size: int, stride: int, depth: int) -> HomogeneousTheory:
    """A_k, D_k and G_k of homogeneous filters on the pairs and perturbations of a scale-detection task on a ring.

    Let q_k be the overlap of the responses to the two sites of a pair, over balanced classes. Then E|f(x1) - f(x2)|^2 is that of
    single sites times (1 + q_k - 2 A_k / L) instead of 1 - A_k / L; both numerators double, and so does the denominator. A share
    b of the moves by one site is not made: 1 / L at the ends of the ring, 1 / xi at the borders of blocks; with s = F these are
    borders between windows of layer k as well. Before it is rectified, the noise has variance 4 a^2 (1 - b) / L. So

        D_k = (1 - b) (1 - c_k(1) / c_k(0)) / (1 + q_k - 2 A_k / L),       s = 1,
        D_k = (1 / A_k - b) / (1 + q_k - 2 A_k / L),                       s = F, which vanishes at A_k = xi in Task 2,
        G_k = (1 - b) (A_k / (2 pi) + 1/2 - 1 / (2 pi)) / (1 + q_k - 2 A_k / L).

    Two effects are left out: two sites can meet, and the moves of near ones are not independent at the borders.

    Args:
        task: in one dimension.
        filter_size, stride, depth: F, s and K; s = 1 or s = F.

    Returns:
        Expectations by layer; layers that see the whole ring, A_k >= L, and those whose filters overlap with strides, have NaN.
    """
    c = autocorrelations(filter_size, stride, depth)
    field = 1 / c[:, 0]
    lost = 1 / task.scale if task.rule == "block" else 1 / task.size
    if stride not in (1, filter_size):
        nothing = np.full_like(field, np.nan)
        return HomogeneousTheory(field, nothing, nothing)
    overlap = np.array(
        [
            _overlap(task, filter_size, stride, layer, size) if size < task.size else np.nan
            for layer, size in enumerate(field, start=1)
        ]
    )
    spread = 1 + overlap - 2 * field / task.size
    d = (1 - c[:, 1] / c[:, 0]) * (1 - lost) if stride == 1 else np.maximum(1 / field - lost, 0)
    g = (1 - lost) * (field / (2 * math.pi) + 0.5 - 0.5 / math.pi)
    return HomogeneousTheory(field, d / spread, g / spread)


def homogeneous_layers(images: Tensor, filter_size: int, stride: int, depth: int) -> list[Tensor]:
    """Representations f_1 ... f_K of images [N, L] by filters of F weights 1 / F and ReLU, each [N, sites]."""
    from torch.nn import functional

    _check(filter_size, stride, depth)
    weight = images.new_full((1, 1, filter_size), 1 / filter_size)
    left = (filter_size - 1) // 2
    layers, values = [], images[:, None]
    for _ in range(depth):
        if values.shape[2] < filter_size:
            raise ValueError(f"expected fewer layers: one has {values.shape[2]} sites, and its filters have {filter_size}")
        padded = functional.pad(values, (left, filter_size - 1 - left), mode="circular")
        values = functional.conv1d(padded, weight, stride=stride).relu_()
        layers.append(values[:, 0])
    return layers


def lit_site_probes(size: int, generator: torch.Generator | None = None) -> Probes:
    """Images [L, L] of one lit site of height 1, one for each site, moved by one site, and with rectified noise of equal norm.

    All sites are moved to the right: over all lit sites, the pairs of neighbours are the same as to the left. The noise is
    Gaussian, its negative entries set to 0, and then scaled so that |eta| = |tau x - x|, image by image.

    Args:
        size: L.
        generator: of the noise, on the CPU.
    """
    import torch

    from relstab.probes import Probes

    images = torch.eye(size, dtype=torch.float64)
    moved = images.roll(1, 1)
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64).relu_()
    noise *= math.sqrt(2) / noise.norm(dim=1, keepdim=True)
    return Probes(images, moved, images + noise)
