"""All sums of one layer in one pass over its activations, compiled by numba where it is installed.

torch goes through the activations once for each of difference, norm, centred sum and projection, and memory is the limit. Here
a block of features stays in the processor's cache while all sums of the block are taken.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["BLOCK", "OnePass"]

BLOCK = 4096
"""Features whose sums are taken in the activations' own precision; blocks are added in float64."""
# Images that are added in the activations' own precision, feature by feature; these sums are added in float64.
_IMAGES = 16
# Features times images below which a second thread costs more than it gains.
_SMALLEST_PART = 2**17


def _sum_blocks(
    flat: Any, stride: int, batch: int, weight: Any, origin: Any, estimate: Any, total: Any, out: Any, first: int, last: int
) -> None:
    """Take the sums of the blocks from ``first`` to ``last``; numba compiles this function.

    Args:
        flat: [(V + 1) B rows of ``stride`` entries], the images, then each perturbed version.
        stride, batch: entries from one row to the next; B.
        weight: 1 if the versions are representations, 0 if they are differences from the images'.
        origin: o, [features], or empty for 0.
        estimate: of the mean, counted from o, [features], or empty for 0.
        total: sum over the images of f - o, [features], float64, to which this batch is added.
        out: [V + 2, B, blocks], float64: |f - o|^2, |f(T x) - f(x)|^2 of each version, and the projection (f - o) . estimate.
    """
    zero = flat.dtype.type(0)
    o, e, column = np.zeros(BLOCK, flat.dtype), np.zeros(BLOCK, flat.dtype), np.zeros(BLOCK, flat.dtype)
    for block in range(first, last):
        start = block * BLOCK
        count = min(BLOCK, len(total) - start)
        if len(origin):
            o[:count] = origin[start : start + count]
        if len(estimate):
            e[:count] = estimate[start : start + count]
        block_total = total[start : start + count]
        for image in range(batch):
            begin = image * stride + start
            clean = flat[begin : begin + count]
            square, projection = zero, zero
            for j in range(count):
                centred = clean[j] - o[j]
                square += centred * centred
                projection += centred * e[j]
                column[j] += centred
            out[0, image, block], out[-1, image, block] = square, projection
            for version in range(1, len(out) - 1):
                begin = (version * batch + image) * stride + start
                perturbed = flat[begin : begin + count]
                square = zero
                for j in range(count):
                    change = perturbed[j] - weight * clean[j]
                    square += change * change
                out[version, image, block] = square
            if image % _IMAGES == _IMAGES - 1 or image == batch - 1:
                for j in range(count):
                    block_total[j] += column[j]
                    column[j] = zero


@functools.cache
def _compiled() -> Callable[..., None] | None:
    """:func:`_sum_blocks` compiled, or None without numba: in about 2 s, and once, since numba keeps the code in a file."""
    try:
        import numba
    except ImportError:
        return None
    if numba.config.DISABLE_JIT:
        return None
    # Sums are taken in the order that is fastest; NaN and infinity stay what they are.
    options = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "error_model": "numpy"}
    try:
        compiled: Callable[..., None] = numba.njit(cache=True, **options)(_sum_blocks)
    except RuntimeError:  # no folder to which numba can write compiled code
        compiled = numba.njit(**options)(_sum_blocks)
    return compiled


class OnePass:
    """Takes the sums on as many threads as torch uses; the numbers do not depend on how many these are."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    @staticmethod
    def is_available() -> bool:
        """Whether numba is installed, and not switched off by NUMBA_DISABLE_JIT=1."""
        return _compiled() is not None

    def sums(
        self, versions: Tensor, origin: Tensor | None, estimate: Tensor | None, total: Tensor, are_changes: bool
    ) -> tuple[Tensor, Tensor]:
        """Sums of one batch, float64; ``total`` [features] gets the sum over its images.

        Args:
            versions: f(x) and f(T x) of each version, or f(x) and the changes, [V + 1, B, features], on the CPU.
            origin, estimate: [features], or None for 0.
            total: float64.
            are_changes: whether the versions are f(T x) - f(x) already.

        Returns:
            |f - o|^2 and |f(T x) - f(x)|^2, [V + 1, B], and (f - o) . estimate, [B].
        """
        reduce = _compiled()
        assert reduce is not None
        rows = versions.flatten(0, 1)
        if rows.shape[1] > 1 and rows.stride(1) != 1:
            rows = rows.contiguous()
        stride = rows.stride(0)
        batch, features = versions.shape[1:]
        flat = rows.as_strided(((len(rows) - 1) * stride + features,), (1,)).numpy(force=True)
        empty = flat[:0]
        blocks = -(-features // BLOCK)
        out = np.empty((len(versions) + 1, batch, blocks))
        given = (flat, stride, batch, flat.dtype.type(not are_changes))
        state = [empty if part is None else part.numpy(force=True) for part in (origin, estimate)]

        def run(first: int, last: int) -> None:
            reduce(*given, *state, total.numpy(), out, first, last)

        threads = min(torch.get_num_threads(), blocks, max(1, batch * features // _SMALLEST_PART))
        bounds = [blocks * thread // threads for thread in range(threads + 1)]
        if threads > 1:
            self._pool = self._pool or ThreadPoolExecutor(torch.get_num_threads() - 1)
        parts = list(itertools.pairwise(bounds))
        waiting = [self._pool.submit(run, *part) for part in parts[1:]] if self._pool is not None else []
        run(*parts[0])
        for part in waiting:
            part.result()
        summed = torch.from_numpy(out.sum(2))
        return summed[:-1], summed[-1]
