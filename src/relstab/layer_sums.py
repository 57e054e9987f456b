"""What D, G and R of one layer are made of, in one pass over the images and without their pairs.

The denominator, the mean of |f(x1) - f(x2)|^2 over all P^2 pairs of images, is 2 / P times M = sum over images of
|f(x) - m|^2, with m the mean of f. M is accumulated segment by segment of the stream. A segment of n images, with S = sum (f - o)
and Q = sum |f - o|^2, is merged into the n' images before it, with mean m', by

    M <- M + Q - |S|^2 / n + n n' / (n + n') |o + S / n - m'|^2      (Chan, Golub, LeVeque 1979, Eq. 2.1).

The origin o is 0 where that costs no digits, and the mean of the images before where the mean is large beside the spread.
A segment ends when the number of images has doubled.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BLOCK", "LayerAccumulator", "LayerSums", "Scratch"]

# Entries are added in the representation's own precision by blocks of this length, blocks in float64: rounding stays that of 4096
# terms however wide the layer is.
BLOCK = 4096
# Differences are written for this many entries at a time: small beside the activations.
_ENTRIES = {"cpu": 2**20, "cuda": 2**24}
# |m|^2 over the mean of |f - m|^2 up to which distances are taken from 0: it multiplies the rounding of the denominator.
_LARGE_MEAN = 4.0


@dataclass(frozen=True)
class LayerSums:
    """What D, G and R of one layer and their standard errors are made of.

    Attributes:
        layer: name in ``model.named_modules()``, or "input" or "output".
        kind: class of the module, or "input" or "output".
        diffeo: |f(tau x) - f(x)|^2, [P].
        noise: |f(x + eta) - f(x)|^2, [P].
        spread: |f(x) - m|^2, up to a constant, with m an estimate of the mean from at least half of the images before x, [P].
            It says how each image moves the denominator, and only the standard errors of D and G use it.
        denominator: mean of |f(x1) - f(x2)|^2 over all P^2 pairs.
        is_constant: whether f is the same for all images, up to rounding.
    """

    layer: str
    kind: str
    diffeo: NDArray[np.float64]
    noise: NDArray[np.float64]
    spread: NDArray[np.float64]
    denominator: float
    is_constant: bool


def _double(value: Tensor) -> Tensor:
    """``value`` in float64, on its own device where that has it."""
    return value.cpu().double() if value.device.type == "mps" else value.double()


def _block_norms(rows: Tensor, out: Tensor, length: int) -> None:
    """Norms of the blocks of ``rows`` [..., features], ``length`` features each, into ``out`` [..., blocks]."""
    features = rows.shape[-1]
    blocks, rest = divmod(features, length)
    if blocks:
        whole = rows[..., : features - rest] if rest else rows
        torch.linalg.vector_norm(whole.unflatten(-1, (blocks, length)), dim=-1, out=out[..., :blocks] if rest else out)
    if rest:
        torch.linalg.vector_norm(rows[..., features - rest :], dim=-1, keepdim=True, out=out[..., blocks:])


class Scratch:
    """Memory for differences, kept from layer to layer: on a CPU, fresh memory costs more than what is written to it."""

    def __init__(self) -> None:
        self._memory: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, part: Tensor) -> Tensor:
        """A contiguous tensor of the shape, dtype and device of ``part``; the next call gives the same memory."""
        key = (part.device, part.dtype)
        if key not in self._memory or len(self._memory[key]) < part.numel():
            self._memory[key] = torch.empty(part.numel(), dtype=part.dtype, device=part.device)
        return self._memory[key][: part.numel()].view(part.shape)


@dataclass
class LayerAccumulator:
    """Running sums of one layer; everything stays on the layer's device until :meth:`finish`.

    Attributes:
        layer, kind: as in :class:`LayerSums`.
        scratch: memory to work in, which layers can share.
        images: how many were added.
        blocks: diffeo and noise of the last batch by block of features, [2, B, blocks].
    """

    layer: str
    kind: str
    scratch: Scratch = field(default_factory=Scratch)
    images: int = 0
    blocks: Tensor | None = None
    # Of each batch: |f - o|^2, diffeo and noise, [3, B]; f m and |m|^2 with the estimate m of the mean, where o is 0; and
    # 1 / (images behind m), negative where m is the batch's own mean.
    _values: list[Tensor] = field(default_factory=list)
    _projections: list[tuple[Tensor, float] | None] = field(default_factory=list)
    _shares: list[float] = field(default_factory=list)
    # The segment: the estimate, its |m|^2 and the images behind it, the origin (None for 0), sum of f - o, and where in _values
    # it begins.
    _estimate: Tensor | None = None
    _square: float = 0.0
    _behind: int = 0
    _origin: Tensor | None = None
    _sum: Tensor | None = None
    _begin: int = 0
    # The segments before: how many images, their mean and M.
    _merged: int = 0
    _mean: Tensor | None = None
    _m: Tensor | None = None

    def add(self, representation: Tensor, block: int = BLOCK, numerators: Tensor | None = None) -> Tensor:
        """Add one batch.

        Args:
            representation: [3 B, features]: B images, then their deformed, then their noisy versions.
            block: features that are added up in the representation's own precision.
            numerators: diffeo and noise, [2, B] in float64, where they are known.

        Returns:
            |f - o|^2, diffeo and noise of this batch, [3, B], on the layer's device. Whether they are finite is left to the
            caller to ask, since on a GPU that waits for the device.
        """
        versions = representation.unflatten(0, (3, -1))
        batch, features = versions.shape[1:]
        clean = versions[0]
        if self._estimate is not None and features != len(self._estimate):
            raise ValueError(
                f"layer {self.layer!r} gave {len(self._estimate)} features an image, then {features}: "
                f"the same number for every batch is wanted"
            )
        own = self._estimate is None or self._behind < batch
        if own:
            self._begin_from(clean)
        assert self._estimate is not None
        self._shares.append(-1 / batch if own else 1 / self._behind)
        norms = clean.new_empty(3, batch, -(-features // block))
        rows = max(1, _ENTRIES.get(clean.device.type, _ENTRIES["cuda"]) // features)
        for start in range(0, batch, rows):
            part, out = (versions, norms) if rows >= batch else (t[:, start : start + rows] for t in (versions, norms))
            differences = self.scratch.like(part[1:])
            if numerators is None:
                _block_norms(torch.sub(part[1:], part[0], out=differences), out[1:], block)
            if self._origin is not None:
                _block_norms(torch.sub(part[0], self._origin, out=differences[0]), out[0], block)
                self._add_to_sum(differences[0].sum(0))
        if self._origin is None:
            _block_norms(clean, norms[0], block)
            self._add_to_sum(clean.sum(0))
            self._projections.append((clean @ self._estimate, self._square))
        else:
            self._projections.append(None)
        squares = _double(norms if numerators is None else norms[:1]).square_()
        values = squares.sum(2) if squares.shape[2] > 1 else squares[..., 0]
        self._values.append(values if numerators is None else torch.cat([values, numerators]))
        self.blocks = squares[1:]
        self.images += batch
        if self.images >= 2 * self._behind:
            self._merge()
        return self._values[-1]

    def _begin_from(self, clean: Tensor) -> None:
        """Begin a segment with the mean of its first batch as the estimate: the first one, or one larger than all before it."""
        first = self._estimate is None
        if self._sum is not None:
            self._merge()
        # From the first image on, so that what is the same for all images gives differences of exactly 0.
        self._estimate = clean[0] + (clean - clean[0]).mean(0)
        self._square = float(_double(self._estimate).square().sum())
        self._behind = len(clean)
        self._origin = self._estimate if first or self._origin is not None else None

    def _add_to_sum(self, part: Tensor) -> None:
        self._sum = _double(part) if self._sum is None else self._sum.add_(part.to(self._sum.device))

    def _merge(self) -> None:
        """Merge the segment into the images before it, and begin the next one."""
        assert self._sum is not None
        assert self._estimate is not None
        images = self.images - self._merged
        mean = self._sum / images
        m = torch.cat([values[0] for values in self._values[self._begin :]]).sum() - images * mean.square().sum()
        if self._origin is not None:
            mean = mean + _double(self._origin)
        if self._mean is not None and self._m is not None:
            gap = mean - self._mean
            mean = self._mean + gap * (images / self.images)
            m = m + self._m + gap.square().sum() * (self._merged * images / self.images)
        self._mean, self._m, self._merged = mean, m, self.images
        self._estimate, self._behind = mean.to(self._estimate), self.images
        self._square = float(mean.square().sum())
        self._origin = self._estimate if self._square > _LARGE_MEAN * float(m) / self.images else None
        self._sum, self._begin = None, len(self._values)

    def finish(self, order: NDArray[np.int64] | None = None) -> LayerSums:
        """Sums over all the images that were added; ``order`` [P] says which image each of them was, if not in order."""
        if self._sum is not None:
            self._merge()
        assert self._estimate is not None
        assert self._mean is not None
        assert self._m is not None
        m = float(self._m)
        spread, diffeo, noise = torch.cat(self._values, 1).cpu().numpy()
        start = 0
        for values, projection, share in zip(self._values, self._projections, self._shares, strict=True):
            end = start + values.shape[1]
            if projection is not None:
                along, square = projection
                spread[start:end] += square - 2 * along.cpu().double().numpy()
            # The mean of n other images adds variance / n to the distances from it, and a batch's own mean takes it away.
            spread[start:end] -= share * m / max(self.images - 1, 1)
            start = end
        if order is not None:
            inverse = np.argsort(order)
            spread, diffeo, noise = spread[inverse], diffeo[inverse], noise[inverse]
        denominator = 2 * m / self.images
        # Each feature is off by some units in its last place at most, about its own mean.
        rounding = torch.finfo(self._estimate.dtype).eps
        return LayerSums(
            self.layer, self.kind, diffeo, noise, spread, denominator, denominator <= (4 * rounding) ** 2 * self._square
        )
