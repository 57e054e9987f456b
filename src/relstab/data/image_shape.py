"""The shape that all images of a folder get. Checking a config needs it, but not the libraries that open images."""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Fit", "Shape"]

Fit = Literal["exact", "crop", "stretch"]


@dataclass(frozen=True)
class Shape:
    """Shape of all images.

    Attributes:
        channels: 1 (grey) or 3 (colour).
        size: n, rows and columns.
        fit: "exact": every image must have this size; "crop": the shorter side is resized to ``resize_to`` and the centre is cut
            out; "stretch": the image is resized to n x n. Resizing is bilinear and antialiased.
        resize_to: pixels of the shorter side, at least ``size``; None for ``size``.
    """

    channels: int
    size: int
    fit: Fit = "exact"
    resize_to: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {self.channels}")
        if self.size < 1:
            raise ValueError(f"size: expected at least 1 pixel, got {self.size}")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit: expected 'exact', 'crop' or 'stretch', got {self.fit!r}")
        if self.resize_to is not None and (self.fit != "crop" or self.resize_to < self.size):
            raise ValueError(
                f"resize_to: expected at least size = {self.size}, with fit 'crop', got {self.resize_to} with fit {self.fit!r}"
            )
