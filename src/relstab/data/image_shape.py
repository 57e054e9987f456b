"""The one shape that all images of a folder get, without anything that opens images: a config is checked with it."""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Fit", "Shape"]

Fit = Literal["exact", "crop", "stretch"]


@dataclass(frozen=True)
class Shape:
    """The one shape that all images get.

    Attributes:
        channels: 1, grey, or 3, colour.
        size: n, rows and columns.
        fit: "exact": every image must have this size; "crop": its shorter side is resized to ``resize_to`` and the centre cut
            out; "stretch": it is resized to n x n. Resizing is bilinear, over all pixels that go into one (antialiased).
        resize_to: of the shorter side, at least ``size``; None for ``size``.
    """

    channels: int
    size: int
    fit: Fit = "exact"
    resize_to: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: 1, grey, or 3, colour, is wanted")
        if self.size < 1:
            raise ValueError(f"size is {self.size}: at least 1 pixel is wanted")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit is {self.fit!r}: 'exact', 'crop' or 'stretch' is wanted")
        if self.resize_to is not None and (self.fit != "crop" or self.resize_to < self.size):
            raise ValueError(
                f"resize_to is {self.resize_to}, size {self.size}, fit {self.fit!r}: at least the size is wanted, and fit: crop"
            )
