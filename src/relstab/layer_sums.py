"""The sums behind D, G and R of one layer, in one pass over the images and without their pairs.

The denominator, the mean of |f(x1) - f(x2)|^2 over all P^2 pairs of images, is 2 / P times

    M = sum over images of |f(x) - m|^2 = Q - |S|^2 / P,   S = sum (f - o),   Q = sum |f - o|^2,

with m the mean of f and o any origin. The origin is 0, unless the mean is so large beside the spread that rounding would take the
digits of M. Then the origin is the mean of the first batch. A layer keeps S, and o where it is not 0: 8 or 12 bytes per feature.

The standard errors of D and G need |f(x) - m|^2 of each image. There, m is estimated by the images before the batch, or by the
batch itself if it has more images.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relstab.sensitivity_table import LayerSums

__all__ = ["LayerAccumulator", "Scratch", "median_sensitivities"]

_Compiled = Callable[..., tuple[NDArray[np.float64], Any]]

# Entries are added in the representation's own precision by blocks of this length, and blocks in float64: the rounding is that
# of 4,096 terms however wide the layer is.
_BLOCK = 4096
# Entries of one version per step: few enough that the differences, which are written, stay in the processor's cache.
_ENTRIES = {"cpu": 2**18, "cuda": 2**24}
# Features of a layer from which numba, in networks that have such layers, saves more than the half second that it takes to load.
_WIDE = 2**13
# |m|^2 over the mean of |f - m|^2 up to which the origin is 0: this ratio multiplies the rounding of the denominator.
_LARGE_MEAN = 4.0
# Images that there is memory for at first.
_KEPT_IMAGES = 512
# Images and features up to which a representation is kept for its medians.
_MEDIAN_IMAGES, _MEDIAN_FEATURES = 2048, 2048


def median_sensitivities(clean: Tensor, deformed: Tensor, noisy: Tensor) -> tuple[float, float]:
    """D and G with medians in place of means, as in arXiv 2105.02468: robust to a few images.

    D = sum over coordinates c of median over images of (f_c(tau x) - f_c(x))^2 / median over pairs of |f(x1) - f(x2)|^2,
    and G likewise. As in the authors' code the pairs are all P^2, x1 = x2 included, and the median of an even number of values is
    the lower of the two in the middle.

    Args:
        clean, deformed, noisy: f(x), f(tau x), f(x + eta), [P, features].
    """
    clean, deformed, noisy = (version.double() for version in (clean, deformed, noisy))
    pairs = torch.cdist(clean, clean, compute_mode="donot_use_mm_for_euclid_dist").square().flatten().median()
    d, g = ((version - clean).square().median(0).values.sum() / pairs for version in (deformed, noisy))
    return float(d), float(g)


def _double(value: Tensor) -> Tensor:
    """``value`` in float64, on the CPU if its device has no float64."""
    return value.cpu().double() if value.device.type == "mps" else value.double()


def _block_norms(rows: Tensor, out: Tensor) -> None:
    """Norms of the blocks of ``rows`` [..., features], into ``out`` [..., blocks]."""
    features = rows.shape[-1]
    blocks, rest = divmod(features, _BLOCK)
    if blocks:
        whole = rows[..., : features - rest] if rest else rows
        torch.linalg.vector_norm(whole.unflatten(-1, (blocks, _BLOCK)), dim=-1, out=out[..., :blocks] if rest else out)
    if rest:
        torch.linalg.vector_norm(rows[..., features - rest :], dim=-1, keepdim=True, out=out[..., blocks:])


@functools.cache
def _compiled() -> _Compiled | None:
    """:func:`relstab.compiled_sums.compiled_sums`, or None where numba or the threads of torch are missing."""
    try:
        from relstab.compiled_sums import compiled_sums, is_available
    except ImportError:
        return None
    return compiled_sums if is_available() else None


class Scratch:
    """What the layers of one network share: memory, since on a CPU fresh memory costs more than writing to it, and numba's loop.

    Attributes:
        compiled: :func:`relstab.compiled_sums.compiled_sums` from the first wide layer on, where it is available.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self.compiled: _Compiled | None = None

    def like(self, part: Tensor, name: str) -> Tensor:
        """A contiguous tensor of the shape, dtype and device of ``part``; the next call with this name returns it again."""
        key = (name, part.device, part.dtype)
        if key not in self._memory or len(self._memory[key]) < part.numel():
            self._memory[key] = torch.empty(part.numel(), dtype=part.dtype, device=part.device)
        return self._memory[key][: part.numel()].view(part.shape)


@dataclass
class LayerAccumulator:
    """Running sums of one layer; everything stays on the layer's device until :meth:`finish`.

    Attributes:
        layer, kind: as in :class:`relstab.sensitivity_table.LayerSums`.
        scratch: working memory, which layers can share.
        perturbations: V, 2 for D and G.
        are_changes: whether batches hold f(T x) - f(x) in place of f(T x).
        images: how many were added.
    """

    layer: str
    kind: str
    scratch: Scratch = field(default_factory=Scratch)
    perturbations: int = 2
    are_changes: bool = False
    images: int = 0
    # S, o (None for 0), Q of the first batch, and the rounding of one entry.
    _sum: Tensor | None = None
    _origin: Tensor | None = None
    _first_squares: float = 0.0
    _rounding: float = 0.0
    # What add returned, in one array that grows by doubling: small arrays kept from every batch would lie between the large ones
    # that come and go, and the memory of the process would grow with the images.
    _kept: NDArray[np.float64] | None = None
    _count: int = 0
    # For each batch, its images and 1 / (images of the estimate), negative if the estimate is the mean of the batch itself.
    _shares: list[tuple[int, float]] = field(default_factory=list)
    _representation: list[Tensor] = field(default_factory=list)

    def add(self, representation: Tensor) -> Tensor:
        """Add one batch.

        Args:
            representation: [(V + 1) B, features]: B images, then each of their V perturbed versions.

        Returns:
            |f - o|^2, |f(T x) - f(x)|^2 of each version, and |f - m|^2 of this batch, [V + 2, B], on the layer's device. The
            caller fetches them, checks that they are finite and hands them to :meth:`keep`; on a GPU this waits for the device.
        """
        batch, features = len(representation) // (self.perturbations + 1), representation.shape[1]
        if self._sum is not None and features != len(self._sum):
            raise ValueError(
                f"expected layer {self.layer!r} to return the same number of features per image in every batch, "
                f"got {len(self._sum)}, then {features}"
            )
        self._shares.append((batch, -1 / batch if self.images < batch else 1 / self.images))
        add = self._add
        if representation.device.type == "cpu":
            if features >= _WIDE:
                self.scratch.compiled = _compiled()
            if self.scratch.compiled is not None:
                add = functools.partial(self._add_compiled, self.scratch.compiled)
        values = add(representation, batch)
        self.images += batch
        return values

    def _add(self, representation: Tensor, batch: int) -> Tensor:
        """:meth:`add` by operations of torch, on any device."""
        versions = representation.unflatten(0, (self.perturbations + 1, batch))
        clean = versions[0]
        if self._sum is None:
            # Counted from the first image, so that a constant representation gives differences of exactly 0.
            self._origin = mean = clean[0] + (clean - clean[0]).mean(0)
            self._sum = _double(torch.zeros_like(mean))
            values, *_ = self._sums(versions, torch.zeros_like(mean))
            exact = _double(mean)
            if not self._keeps_origin(mean, float(values[0].sum()), float(exact.square().sum()), float(exact @ self._sum), batch):
                self._sum.add_(mean.to(self._sum.device), alpha=batch)
            return torch.cat([values, values[:1]])
        estimate = None
        if self.images < batch:
            estimate = clean.mean(0) if self._origin is None else (clean - self._origin).mean(0)
        values, projection, square = self._sums(versions, estimate)
        return torch.cat([values, values[:1] + (square - 2 * projection)])

    def _add_compiled(self, sums: _Compiled, rows: Tensor, batch: int) -> Tensor:
        """:meth:`add` by the loop that numba compiled."""
        options = {"images": self.images, "are_changes": self.are_changes}
        if self._sum is None:
            mean, self._sum = rows.new_empty(rows.shape[1]), rows.new_empty(rows.shape[1], dtype=torch.float64)
            values, (square, product) = sums(rows, batch, mean, self._sum, **options)
            if self._keeps_origin(mean, float(values[0].sum()), square, product, batch):
                torch.sum(rows[:batch] - mean, 0, dtype=torch.float64, out=self._sum)
            values[-1] = values[0]
            return torch.from_numpy(values)
        values, (square, _) = sums(rows, batch, self._origin, self._sum, **options)
        values[-1] = values[0] + square - 2 * values[-1]
        return torch.from_numpy(values)

    def _sums(self, versions: Tensor, estimate: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """|f - o|^2 and |f(T x) - f(x)|^2, [V + 1, B], (f - o) . e, [B], and |e|^2, in float64; ``_sum`` gets the sum of f - o.

        Args:
            versions: [V + 1, B, features].
            estimate: e, [features]; by default the mean of the images before, counted from o.
        """
        assert self._sum is not None
        batch, features = versions.shape[1:]
        norms = versions.new_empty(len(versions), batch, -(-features // _BLOCK))
        blocks = max(1, _ENTRIES.get(versions.device.type, _ENTRIES["cuda"]) // (batch * _BLOCK))
        width, projections, estimate_squares = blocks * _BLOCK, [], []
        parts = versions.split(width, 2), norms.split(blocks, 2), self._sum.split(width)
        for start, part, out, sums in zip(range(0, features, width), *parts, strict=True):
            columns = slice(start, start + width)
            changes = part[1:] if self.are_changes else torch.sub(part[1:], part[0], out=self.scratch.like(part[1:], "changes"))
            _block_norms(changes, out[1:])
            centred = part[0]
            if self._origin is not None:
                centred = torch.sub(centred, self._origin[columns], out=self.scratch.like(centred, "centred"))
            _block_norms(centred, out[0])
            e = self._mean_before(sums, centred[0]) if estimate is None else estimate[columns]
            projections.append(centred @ e)
            estimate_squares.append(e @ e)
            sums.add_(torch.sum(centred, 0, out=self.scratch.like(centred[0], "sum")).to(sums.device))
        squares = _double(norms).square_()
        values = squares.sum(2) if squares.shape[2] > 1 else squares[..., 0]
        return values, _double(torch.stack(projections)).sum(0), _double(torch.stack(estimate_squares)).sum(0)

    def _mean_before(self, sums: Tensor, like: Tensor) -> Tensor:
        return self.scratch.like(like, "estimate").copy_(sums).div_(self.images)

    def keep(self, values: NDArray[np.float64]) -> None:
        """Keep what :meth:`add` returned for a batch, [V + 2, B]."""
        if self._kept is None:
            self._kept = np.empty((len(values), 0))
        end = self._count + values.shape[1]
        if end > self._kept.shape[1]:
            longer = np.empty((len(values), max(2 * end, _KEPT_IMAGES)))
            longer[:, : self._count] = self._kept[:, : self._count]
            self._kept = longer
        self._kept[:, self._count : end] = values
        self._count = end

    def keep_representation(self, representation: Tensor) -> None:
        """Keep a batch [(V + 1) B, features] for :func:`median_sensitivities`: at most 2,048 images of at most 2,048 features."""
        kept = sum(part.shape[1] for part in self._representation)
        if kept < _MEDIAN_IMAGES and representation.shape[1] <= _MEDIAN_FEATURES:
            versions = representation.unflatten(0, (self.perturbations + 1, -1))
            self._representation.append(versions[:, : _MEDIAN_IMAGES - kept].to("cpu", copy=True))

    def _keeps_origin(self, mean: Tensor, squares: float, square: float, product: float, images: int) -> bool:
        """After the first batch: whether its mean m is so large that it remains the origin; otherwise the origin is 0.

        Args:
            mean: m, [features].
            squares: sum of |f - m|^2.
            square, product: |m|^2, and m . S, S the sum of f - m.
            images: of the batch.
        """
        self._rounding = torch.finfo(mean.dtype).eps
        is_large = not square <= _LARGE_MEAN * squares / images  # also if they are NaN
        self._origin = mean if is_large else None
        self._first_squares = squares if is_large else squares + 2 * product + images * square
        return is_large

    def finish(self, order: NDArray[np.int64] | None = None) -> LayerSums:
        """Sums over all images that were added.

        Args:
            order: which probe each image was, [P], if they were not added in order.
        """
        assert self._sum is not None
        assert self._kept is not None
        square = float(self._sum @ self._sum) / self.images**2
        kept = self._kept[:, : self._count].copy()
        squares, numerators, spread = kept[0], kept[1:-1], kept[-1]
        m = self._first_squares + squares[self._shares[0][0] :].sum() - self.images * square
        if self._origin is not None:
            square = float((self._sum / self.images + _double(self._origin)).square().sum())
        # The mean of n other images adds variance / n to the distances from it; the batch's own mean takes it away.
        batches, shares = zip(*self._shares, strict=True)
        spread -= np.repeat(shares, batches) * m / max(self.images - 1, 1)
        if order is not None:
            inverse = np.argsort(order)
            spread, numerators = spread[inverse], numerators.take(inverse, 1)
        denominator = 2 * m / self.images
        # Each feature is off by a few units in its last place, about its own mean.
        is_constant = denominator <= (4 * self._rounding) ** 2 * square
        medians = (math.nan, math.nan)
        if self._representation and not is_constant:
            medians = median_sensitivities(*torch.cat(self._representation, 1))
        return LayerSums(self.layer, self.kind, numerators, spread, denominator, is_constant, medians)
