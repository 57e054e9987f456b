"""What D, G and R of one layer are made of, in one pass over the images and without their pairs.

The denominator, the mean of |f(x1) - f(x2)|^2 over all P^2 pairs of images, is 2 / P times

    M = sum over images of |f(x) - m|^2 = Q - |S|^2 / P,   S = sum (f - o),   Q = sum |f - o|^2,

with m the mean of f and o any origin. The origin is 0 where that costs no digits, and the mean of the first batch where the
mean is large beside the spread. What one layer keeps is S, an estimate of m, and o where it is not 0: 12 or 16 bytes a feature.
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
    # S, o (None for 0), and Q of the first batch.
    _sum: Tensor | None = None
    _origin: Tensor | None = None
    _first_squares: float = 0.0
    # The estimate of m, counted from o, its square, and how many images it is the mean of.
    _estimate: Tensor | None = None
    _square: float = 0.0
    _behind: int = 0
    # What add gave, in one array that grows by doubling: small pieces kept from every batch would lie between the large ones that
    # come and go, and the memory of the process would grow with the images.
    _kept: NDArray[np.float64] = field(default_factory=lambda: np.empty((4, 0)))
    _count: int = 0
    # Of each batch, how many images and 1 / (images behind the estimate), negative where it is the mean of the batch itself.
    _shares: list[tuple[int, float]] = field(default_factory=list)

    def add(self, representation: Tensor, block: int = BLOCK, numerators: Tensor | None = None) -> Tensor:
        """Add one batch.

        Args:
            representation: [3 B, features]: B images, then their deformed, then their noisy versions.
            block: features that are added up in the representation's own precision.
            numerators: diffeo and noise, [2, B] in float64, where they are known.

        Returns:
            |f - o|^2, diffeo, noise and |f - m|^2 of this batch, [4, B], on the layer's device, for :meth:`keep`. To fetch them,
            and to ask whether they are finite, is left to the caller, since on a GPU that waits for the device.
        """
        versions = representation.unflatten(0, (3, -1))
        batch, features = versions.shape[1:]
        clean = versions[0]
        if self._sum is not None and features != len(self._sum):
            raise ValueError(
                f"layer {self.layer!r} gave {len(self._sum)} features an image, then {features}: "
                f"the same number for every batch is wanted"
            )
        first = self._sum is None
        if self._sum is None:
            # From the first image on, so that what is the same for all images gives differences of exactly 0.
            self._origin = clean[0] + (clean - clean[0]).mean(0)
            self._sum = _double(torch.zeros_like(self._origin))
        own = self._behind < batch
        if own and not first:
            self._set_estimate(clean.mean(0) if self._origin is None else (clean - self._origin).mean(0))
        self._shares.append((batch, -1 / batch if own else 1 / self._behind))
        norms = clean.new_empty(3, batch, -(-features // block))
        projections = []
        rows = max(1, _ENTRIES.get(clean.device.type, _ENTRIES["cuda"]) // features)
        for start in range(0, batch, rows):
            part, out = (versions, norms) if rows >= batch else (t[:, start : start + rows] for t in (versions, norms))
            if numerators is None:
                _block_norms(torch.sub(part[1:], part[0], out=self.scratch.like(part[1:])), out[1:], block)
            centred = part[0] if self._origin is None else torch.sub(part[0], self._origin, out=self.scratch.like(part[0]))
            _block_norms(centred, out[0], block)
            self._sum.add_(centred.sum(0).to(self._sum.device))
            if self._estimate is not None:
                projections.append(centred @ self._estimate)
        squares = _double(norms if numerators is None else norms[:1]).square_()
        values = squares.sum(2) if squares.shape[2] > 1 else squares[..., 0]
        spread = values[:1]
        if projections:
            spread = spread + (self._square - 2 * _double(torch.cat(projections)))
        self.blocks = squares[1:]
        self.images += batch
        if first:
            self._choose_origin(values[0])
        if own or self.images >= 2 * self._behind:
            self._set_estimate(self._sum.to(clean, copy=True).div_(self.images))
            self._behind = self.images
        return torch.cat([values, spread] if numerators is None else [values, numerators, spread])

    def keep(self, values: NDArray[np.float64]) -> None:
        """Keep what :meth:`add` gave for a batch, [4, B]."""
        end = self._count + values.shape[1]
        if end > self._kept.shape[1]:
            longer = np.empty((4, 2 * end))
            longer[:, : self._count] = self._kept[:, : self._count]
            self._kept = longer
        self._kept[:, self._count : end] = values
        self._count = end

    def _set_estimate(self, estimate: Tensor) -> None:
        if self._estimate is None:
            self._estimate = estimate
        else:
            self._estimate.copy_(estimate)
        self._square = float(self._estimate @ self._estimate)

    def _choose_origin(self, squares: Tensor) -> None:
        """After the first batch, whose mean was the origin: count from 0 where that mean is not large."""
        assert self._sum is not None
        assert self._origin is not None
        origin = _double(self._origin)
        square = float(origin.square().sum())
        self._first_squares = float(squares.sum())
        if square <= _LARGE_MEAN * self._first_squares / self.images:
            self._first_squares += 2 * float(origin @ self._sum) + self.images * square
            self._sum.add_(origin, alpha=self.images)
            self._origin = None

    def finish(self, order: NDArray[np.int64] | None = None) -> LayerSums:
        """Sums over all the images that were added; ``order`` [P] says which image each of them was, if not in order."""
        assert self._sum is not None
        mean = self._sum / self.images
        squares, diffeo, noise, spread = self._kept[:, : self._count].copy()
        m = self._first_squares + squares[self._shares[0][0] :].sum() - self.images * float(mean.square().sum())
        if self._origin is not None:
            mean += _double(self._origin)
        # The mean of n other images adds variance / n to the distances from it, and a batch's own mean takes it away.
        batches, shares = zip(*self._shares, strict=True)
        spread -= np.repeat(shares, batches) * m / max(self.images - 1, 1)
        if order is not None:
            inverse = np.argsort(order)
            spread, diffeo, noise = spread[inverse], diffeo[inverse], noise[inverse]
        denominator = 2 * m / self.images
        # Each feature is off by some units in its last place at most, about its own mean.
        assert self._estimate is not None
        rounding = torch.finfo(self._estimate.dtype).eps
        is_constant = denominator <= (4 * rounding) ** 2 * float(mean.square().sum())
        return LayerSums(self.layer, self.kind, diffeo, noise, spread, denominator, is_constant)
