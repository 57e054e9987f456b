"""Warping images along a displacement field, with bilinear, nearest or gaussian interpolation."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["INTERPOLATIONS", "warp"]

GAUSSIAN_WIDTH = 0.4715
"""Standard deviation, in pixels, of the gaussian interpolation."""

# exp(-d^2 / (2 * 0.4715^2)) is below 1e-16 of the nearest pixel's weight from d = 4.5 on: further pixels add nothing.
_GAUSSIAN_REACH = 4


def _gather(pixels: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Values of ``pixels`` [B, C, n * n] at ``row``, ``col`` [B, n, n] (int64): [B, C, n, n]."""
    size = row.shape[-1]
    index = (row * size + col).flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
    return pixels.gather(2, index).reshape(*pixels.shape[:2], size, size)


def _bilinear(images: Tensor, row: Tensor, col: Tensor) -> Tensor:
    size = images.shape[-1]
    pixels = images.flatten(2)
    # The last cell is closed on the right, so that the far border has both its neighbours inside the image.
    top, left = (position.floor().clamp(max=max(size - 2, 0)) for position in (row, col))
    down, right = (row - top)[:, None], (col - left)[:, None]
    r, c = top.long(), left.long()
    above = (1 - right) * _gather(pixels, r, c) + right * _gather(pixels, r, c + 1)
    below = (1 - right) * _gather(pixels, r + 1, c) + right * _gather(pixels, r + 1, c + 1)
    return (1 - down) * above + down * below


def _nearest(images: Tensor, row: Tensor, col: Tensor) -> Tensor:
    return _gather(images.flatten(2), row.round().long(), col.round().long())


def _gaussian(images: Tensor, row: Tensor, col: Tensor) -> Tensor:
    size = images.shape[-1]
    pixels = images.flatten(2)
    offsets = torch.arange(-_GAUSSIAN_REACH, _GAUSSIAN_REACH + 1, device=images.device)

    def neighbours(position: Tensor) -> tuple[Tensor, Tensor]:
        """Indices [offset, B, n, n] of the pixels around ``position`` and their weights, which sum to one."""
        index = position.round().long() + offsets[:, None, None, None]
        inside = (index >= 0) & (index < size)
        weight = torch.exp(-((index - position) ** 2) / (2 * GAUSSIAN_WIDTH**2)) * inside
        return index.clamp(0, size - 1), weight / weight.sum(0)

    # The kernel and its normalisation factor into rows and columns.
    rows, row_weights = neighbours(row)
    cols, col_weights = neighbours(col)
    warped = torch.zeros_like(images)
    for r, row_weight in zip(rows, row_weights, strict=True):
        for c, col_weight in zip(cols, col_weights, strict=True):
            warped += (row_weight * col_weight)[:, None] * _gather(pixels, r, c)
    return warped


INTERPOLATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bilinear": _bilinear,
    "nearest": _nearest,
    "gaussian": _gaussian,
}


def _align(field: Tensor, images: Tensor, name: str) -> Tensor:
    """``field`` with one axis for each axis of ``images``: missing ones (the channels) go before the last two."""
    lead = field.shape[:-2]
    missing = images.ndim - field.ndim
    if field.ndim < 2 or missing < 0 or field.shape[-2:] != images.shape[-2:]:
        raise ValueError(
            f"{name} has shape {tuple(field.shape)} and images have {tuple(images.shape)}: "
            f"a field of the images' size, one an image or one for all, is wanted"
        )
    field = field.reshape(*lead, *(1,) * missing, *field.shape[-2:])
    try:
        return field.expand(images.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} has leading shape {tuple(lead)} and images have {tuple(images.shape[:-2])}: "
            f"the field's must be the images' or the first part of it"
        ) from None


def warp(images: Tensor, dx: Tensor, dy: Tensor, interpolation: str = "bilinear") -> Tensor:
    """Move the pixels of images along a displacement field.

    out[..., row, col] = x(row - dy[row, col], col - dx[row, col]), coordinates clamped to [0, n - 1]. Between the
    pixels x is "bilinear"; the "nearest" pixel; or "gaussian", the average of the pixels with weights
    exp(-distance^2 / (2 * 0.4715^2)) that sum to one.

    Args:
        images: [..., n, n], floating point, any leading shape.
        dx: displacement along columns, in pixels, [..., n, n]. Its leading shape is that of the images or the first part
            of it: [N, n, n] for images [N, C, n, n] moves all the channels of an image alike.
        dy: displacement along rows, likewise.
        interpolation: "bilinear", "nearest" or "gaussian".

    Returns:
        The warped images, of the shape and dtype of ``images``.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {interpolation!r}: one of {', '.join(map(repr, INTERPOLATIONS))} is wanted")
    if images.ndim < 2 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images have shape {tuple(images.shape)}: square ones, [..., n, n], are wanted")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: a floating-point dtype is wanted")
    size = images.shape[-1]
    if size < 2:
        raise ValueError(f"images have {size} pixel a side: at least 2 are wanted")
    one_field_an_image = images.ndim == 4 and dx.shape == dy.shape == images.shape[:1] + images.shape[2:]
    dx, dy = dx.to(images), dy.to(images)
    grid = torch.arange(size, dtype=images.dtype, device=images.device)
    if one_field_an_image:
        batch, fields = images, (dx, dy)
    else:
        batch = images.reshape(-1, 1, size, size)
        fields = (_align(dx, images, "dx").reshape(-1, size, size), _align(dy, images, "dy").reshape(-1, size, size))
    if not all(bool(field.isfinite().all()) for field in fields):
        raise ValueError("the displacement field has entries that are NaN or infinite: finite ones are wanted")
    col = (grid - fields[0]).clamp(0, size - 1)
    row = (grid[:, None] - fields[1]).clamp(0, size - 1)
    return INTERPOLATIONS[interpolation](batch, row, col).reshape(images.shape)
