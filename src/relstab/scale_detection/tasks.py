"""Scale-detection tasks: images with two lit sites, told apart by how far these are from each other (paper, section 3).

In one dimension the sites are a ring of L, in two an n x n image. Task 1 (rule "distance"): y = +1 where the two are nearer than
the scale xi, -1 where they are farther. Task 2 (rule "block"): y = +1 where both are in the same block of xi sites (on an
image, of xi x xi: the quadrants, for xi = n/2), -1 otherwise. A task is enumerated completely; each image is stored as its
two sites.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

# A task is described and checked, in a config, without torch.
if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Norm", "Pairs", "Rule", "ScaleTask", "check_split", "split_pairs"]

Rule = Literal["distance", "block"]
Norm = Literal["L2", "Linf"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of lit sites with their labels.

    Attributes:
        sites: [N, 2], int32, the first before the second; on an image, row * n + column.
        labels: [N], int8: +1 or -1.
    """

    sites: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Pairs:
        return Pairs(self.sites[index], self.labels[index])


@dataclass(frozen=True)
class ScaleTask:
    """A scale-detection task.

    Attributes:
        rule: "distance" (Task 1) or "block" (Task 2, and the quadrants of an image).
        size: L, sites of the ring, or n, rows and columns of the image.
        scale: xi, in sites.
        gap: pairs near the scale are left out. On the ring, near is d < xi - gap and far d >= xi + gap; on an image, where the
            reference implementation takes the gap for the whole width, d < xi - gap/2 and d >= xi + gap/2.
        dimension: 1 or 2.
        norm: of the displacement, on an image: "L2" or "Linf".
        periodic: whether distances go round the edges: always on the ring; on an image on request.
    """

    rule: Rule
    size: int
    scale: int
    gap: float = 0.0
    dimension: int = 1
    norm: Norm = "L2"
    periodic: bool = False

    def __post_init__(self) -> None:
        if self.dimension not in (1, 2):
            raise ValueError(f"expected dimension to be 1, a ring, or 2, an image, got {self.dimension}")
        for name, value, allowed in (("rule", self.rule, get_args(Rule)), ("norm", self.norm, get_args(Norm))):
            if value not in allowed:
                raise ValueError(f"expected {name} to be {' or '.join(map(repr, allowed))}, got {value!r}")
        if self.size < 2:
            raise ValueError(f"expected size to be at least 2 sites, got {self.size}")
        if not 1 <= self.scale <= self.size / 2:
            where = "ring" if self.dimension == 1 else "image"
            raise ValueError(f"expected scale to be from 1 to {self.size // 2}, half the size of the {where}, got {self.scale}")
        if not 0 <= self.gap < self.scale:
            raise ValueError(f"expected gap to be at least 0 and below scale = {self.scale}, got {self.gap:g}")
        if self.rule == "block" and self.gap:
            raise ValueError(f"expected gap to be 0 with rule 'block', which has no distance to leave out, got {self.gap:g}")
        if self.rule == "block" and self.size % self.scale:
            raise ValueError(f"expected scale to divide size = {self.size}, so that blocks fill it, got {self.scale}")

    @property
    def sites(self) -> int:
        """Number of sites: L or n^2."""
        return int(self.size**self.dimension)

    @property
    def height(self) -> float:
        """Value of a lit site: sqrt(L/2) on the ring, n^2/2 on an image (the reference's)."""
        return math.sqrt(self.size / 2) if self.dimension == 1 else self.size**2 / 2

    def coordinates(self, sites: Tensor) -> Tensor:
        """Coordinates [..., dimension] of sites [...]: position on the ring, or row and column."""
        import torch

        if self.dimension == 1:
            return sites[..., None]
        return torch.stack([self._along(sites, axis) for axis in self._axes], -1)

    def at(self, coordinates: Tensor) -> Tensor:
        """Sites [...] at coordinates [..., dimension]: the inverse of :meth:`coordinates`."""
        return coordinates[..., 0] if self.dimension == 1 else coordinates[..., 0] * self.size + coordinates[..., 1]

    def label(self, first: Tensor, second: Tensor) -> Tensor:
        """Labels of pairs of sites: +1, -1, or 0 for those that the gap leaves out, int8."""
        import torch

        if self.rule == "block":
            same = [self._along(first, axis) // self.scale == self._along(second, axis) // self.scale for axis in self._axes]
            return torch.where(torch.stack(same).all(0), 1, -1).to(torch.int8)
        square = torch.zeros_like(first)
        for axis in self._axes:
            distance = (self._along(first, axis) - self._along(second, axis)).abs_()
            if self.dimension == 1 or self.periodic:
                distance = torch.minimum(distance, self.size - distance)
            square = torch.maximum(square, distance**2) if self.norm == "Linf" else square + distance**2
        near, far = self._bounds
        return (square < near).to(torch.int8) - (square >= far).to(torch.int8)

    @property
    def _bounds(self) -> tuple[float, float]:
        """Squared distances below which a pair is near and from which on it is far.

        Squares of whole numbers are compared with them: no pair is on the wrong side of the scale by rounding.
        """
        half = self.gap if self.dimension == 1 else self.gap / 2
        return (self.scale - half) ** 2, (self.scale + half) ** 2

    @property
    def _axes(self) -> range:
        return range(self.dimension)

    def _along(self, sites: Tensor, axis: int) -> Tensor:
        """One coordinate of each site."""
        if self.dimension == 1:
            return sites
        return sites // self.size if axis == 0 else sites % self.size

    def enumerate(self) -> Pairs:
        """All pairs of different sites that have a label, in order of their sites."""
        import torch

        first, second = (sites.to(torch.int32) for sites in torch.triu_indices(self.sites, self.sites, 1))
        labels = self.label(first, second)
        kept = labels != 0
        return Pairs(torch.stack([first[kept], second[kept]], 1), labels[kept])

    @property
    def counts(self) -> tuple[int, int]:
        """Pairs of label +1 and of label -1 that :meth:`enumerate` gives, counted by the displacement between their sites."""
        n = self.size
        if self.rule == "block":
            blocks, inside = (n // self.scale) ** self.dimension, self.scale**self.dimension
            same = blocks * inside * (inside - 1) // 2
            return same, self.sites * (self.sites - 1) // 2 - same
        counts = {1: 0, -1: 0, 0: 0}
        if self.dimension == 1:
            for d in range(1, n):
                counts[self.side(min(d, n - d) ** 2)] += n - d
        else:
            for rows in range(n):
                for columns in range(1 - n if rows else 1, n):
                    apart = [rows, abs(columns)]
                    if self.periodic:
                        apart = [min(distance, n - distance) for distance in apart]
                    square = max(apart) ** 2 if self.norm == "Linf" else sum(distance**2 for distance in apart)
                    counts[self.side(square)] += (n - rows) * (n - abs(columns))
        return counts[1], counts[-1]

    def side(self, square: int) -> int:
        """Label of a squared distance under the rule "distance": +1, -1, or 0 for those that the gap leaves out."""
        near, far = self._bounds
        return 1 if square < near else -1 if square >= far else 0

    def images(self, sites: Tensor) -> Tensor:
        """Images [N, 1, L] or [N, 1, n, n] (float32) in which the given sites [N, lit] have :attr:`height` and all others 0."""
        import torch

        flat = torch.zeros(len(sites), self.sites).scatter_(1, sites.long(), self.height)
        return flat.reshape(len(sites), 1, *[self.size] * self.dimension)

    @property
    def least_error_of_translation_invariant(self) -> float:
        """Least error, on balanced classes, of a function that does not change when both sites move round the edges together.

        A convolutional network of stride 1 with circular padding and global average pooling is such a function: all it can see of
        a pair is the displacement between its sites.
        """
        import torch

        pairs = self.enumerate()
        first, second = self.coordinates(pairs.sites[:, 0]), self.coordinates(pairs.sites[:, 1])
        # The displacement seen from either site is the same one.
        there, back = (self.at((first - second) % self.size), self.at((second - first) % self.size))
        seen = torch.minimum(there, back).long()
        share = [torch.bincount(seen[pairs.labels == label], minlength=self.sites).double() for label in (1, -1)]
        share = [counts / counts.sum() for counts in share]
        return float(torch.minimum(*share).sum() / 2)


def check_split(counts: tuple[int, int], train: int, test: int | None = None) -> None:
    """Raise an error of one sentence if pairs cannot be split in this way.

    Args:
        counts: pairs of label +1 and -1, as in :attr:`ScaleTask.counts`.
        train, test: as in :func:`split_pairs`.
    """
    for name, count in (("train", train), ("test", test)):
        if count is not None and (count < 2 or count % 2):
            raise ValueError(f"expected {name} to be an even number of pairs, at least 2, half per label, got {count}")
    wanted = train + (2 if test is None else test)
    if wanted > 2 * min(counts):
        raise ValueError(
            f"expected at most {2 * min(counts)} pairs, in balanced classes ({counts[0]} of label 1, {counts[1]} of label -1), "
            f"got {train} training pairs and {'some' if test is None else test} test pairs"
        )


def split_pairs(pairs: Pairs, train: int, test: int | None = None, seed: int = 0) -> tuple[Pairs, Pairs]:
    """Training and test pairs that share none, each with as many of one label as of the other, in random order.

    Args:
        pairs: from :meth:`ScaleTask.enumerate`.
        train: P, even.
        test: how many to test on, even; None for all that balanced classes leave.
        seed: of the choice and the order.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    members = [torch.nonzero(pairs.labels == label)[:, 0] for label in (1, -1)]
    members = [indices[torch.randperm(len(indices), generator=generator)] for indices in members]
    check_split((len(members[0]), len(members[1])), train, test)
    each = min(map(len, members))
    last = each if test is None else (train + test) // 2
    parts = []
    for start, end in ((0, train // 2), (train // 2, last)):
        chosen = torch.cat([indices[start:end] for indices in members])
        parts.append(pairs[chosen[torch.randperm(len(chosen), generator=generator)]])
    return parts[0], parts[1]
