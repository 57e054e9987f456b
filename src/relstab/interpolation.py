"""Warping images along a displacement field, with bilinear, nearest or gaussian interpolation."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["INTERPOLATIONS", "check_interpolation", "move_pixels", "warp"]

GAUSSIAN_WIDTH = 0.4715
"""Standard deviation, in pixels, of the gaussian interpolation."""

# Pixels beyond weigh less than one unit in the last place of the nearest pixel: exp(-3.5^2 / (2 * 0.4715^2)) = 1e-12, and
# 1e-20 at 4.5.
_GAUSSIAN_REACH = {torch.float32: 3, torch.float64: 4}
# Output pixels per step of the gaussian interpolation, so that they stay in the processor's cache.
_GAUSSIAN_PIXELS = {"cpu": 2**15, "cuda": 2**24}


def _gather(pixels: Tensor, index: Tensor) -> Tensor:
    """Values of ``pixels`` [B, C, pixels] at ``index`` [B, n, n] (int64): [B, C, n, n]."""
    flat = index.flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
    return pixels.gather(2, flat).reshape(*pixels.shape[:2], *index.shape[1:])


def _bilinear(images: Tensor, row: Tensor, col: Tensor) -> Tensor:
    # grid_sample counts from -1, the centre of the first pixel, to 1, the centre of the last.
    grid = torch.stack([col, row], -1) * (2 / (images.shape[-1] - 1)) - 1
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _nearest(images: Tensor, row: Tensor, col: Tensor) -> Tensor:
    return _gather(images.flatten(2), row.round().long() * images.shape[-1] + col.round().long())


def _gaussian(images: Tensor, row: Tensor, col: Tensor) -> Tensor:
    size = images.shape[-1]
    reach = _GAUSSIAN_REACH[images.dtype]
    offsets = torch.arange(-reach, reach + 1, device=images.device)[:, None, None, None]

    def neighbours(position: Tensor) -> tuple[Tensor, Tensor]:
        """The pixel nearest to ``position`` [B, n, n] and the weights of those around it, [offset, B, n, n], which sum to one."""
        nearest = position.round()
        index = nearest + offsets
        weight = torch.exp(-((index - position) ** 2) / (2 * GAUSSIAN_WIDTH**2)) * ((index >= 0) & (index < size))
        return nearest.long(), weight / weight.sum(0)

    warped = torch.zeros_like(images)
    # The padding has weight 0; with it, no index is out of range.
    padded = functional.pad(images, [reach] * 4).flatten(2)
    width = size + 2 * reach
    images_at_once = max(1, _GAUSSIAN_PIXELS.get(images.device.type, 2**24) // size**2)
    for start in range(0, len(images), images_at_once):
        part = slice(start, start + images_at_once)
        # The kernel and its normalisation factor into rows and columns.
        nearest_row, row_weights = neighbours(row[part])
        nearest_col, col_weights = neighbours(col[part])
        corner = nearest_row * width + nearest_col
        for down, row_weight in enumerate(row_weights):
            along = torch.zeros_like(warped[part])
            for right, col_weight in enumerate(col_weights):
                along += col_weight[:, None] * _gather(padded[part], corner + (down * width + right))
            warped[part] += row_weight[:, None] * along
    return warped


INTERPOLATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bilinear": _bilinear,
    "nearest": _nearest,
    "gaussian": _gaussian,
}


def check_interpolation(name: str) -> None:
    """Raise ValueError unless ``name`` is one of :data:`INTERPOLATIONS`."""
    if name not in INTERPOLATIONS:
        raise ValueError(f"expected interpolation to be one of {', '.join(map(repr, INTERPOLATIONS))}, got {name!r}")


def _align(field: Tensor, images: Tensor, name: str) -> Tensor:
    """``field`` with one axis for each axis of ``images``: missing axes (the channels) go before the last two."""
    lead = field.shape[:-2]
    missing = images.ndim - field.ndim
    if field.ndim < 2 or missing < 0 or field.shape[-2:] != images.shape[-2:]:
        raise ValueError(
            f"expected {name} to be one field of the images' size, or one per image, for images of shape {tuple(images.shape)}, "
            f"got shape {tuple(field.shape)}"
        )
    field = field.reshape(*lead, *(1,) * missing, *field.shape[-2:])
    try:
        return field.expand(images.shape)
    except RuntimeError:
        raise ValueError(
            f"expected the leading shape of {name} to be that of the images, {tuple(images.shape[:-2])}, or its first part, "
            f"got {tuple(lead)}"
        ) from None


def _position_dtype(images: Tensor) -> torch.dtype:
    """Dtype of positions in ``images``: in half precision they would be off by up to a pixel."""
    return images.dtype if images.dtype in _GAUSSIAN_REACH else torch.float32


def move_pixels(images: Tensor, dx: Tensor, dy: Tensor, interpolation: str) -> Tensor:
    """:func:`warp` of images [B, C, n, n] along finite fields [B, n, n] on their device, without checks.

    A check of a field makes the host wait for the device that holds it.
    """
    size = images.shape[-1]
    dtype = _position_dtype(images)
    grid = torch.arange(size, dtype=dtype, device=images.device)
    col = (grid - dx).clamp(0, size - 1)
    row = (grid[:, None] - dy).clamp(0, size - 1)
    return INTERPOLATIONS[interpolation](images.to(dtype), row, col).to(images.dtype)


def warp(images: Tensor, dx: Tensor, dy: Tensor, interpolation: str = "bilinear") -> Tensor:
    """Move the pixels of images along a displacement field.

    out[..., row, col] = x(row - dy[row, col], col - dx[row, col]), coordinates clamped to [0, n - 1]. Between the
    pixels, x is "bilinear", the "nearest" pixel, or "gaussian": the average of the pixels with weights proportional to
    exp(-distance^2 / (2 * 0.4715^2)).

    Args:
        images: [..., n, n], floating point, any leading shape.
        dx: displacement along columns, in pixels, [..., n, n]. Its leading shape is that of the images or the first part
            of it: [N, n, n] for images [N, C, n, n] moves all the channels of an image alike.
        dy: displacement along rows, likewise.
        interpolation: "bilinear", "nearest" or "gaussian".

    Returns:
        The warped images, of the shape and dtype of ``images``.
    """
    check_interpolation(interpolation)
    if images.ndim < 2 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"expected square images of shape [..., n, n], got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"expected images of a floating-point dtype, got {images.dtype}")
    size = images.shape[-1]
    if size < 2:
        raise ValueError(f"expected images of at least 2 pixels per side, got {size}")
    one_field_an_image = images.ndim == 4 and dx.shape == dy.shape == images.shape[:1] + images.shape[2:]
    dx, dy = (field.to(images.device, _position_dtype(images)) for field in (dx, dy))
    if one_field_an_image:
        batch, fields = images, (dx, dy)
    else:
        batch = images.reshape(-1, 1, size, size)
        fields = (_align(dx, images, "dx").reshape(-1, size, size), _align(dy, images, "dy").reshape(-1, size, size))
    if not all(bool(field.isfinite().all()) for field in fields):
        raise ValueError("expected a finite displacement field, got entries that are NaN or infinite")
    if interpolation != "gaussian" and not any(bool(field.any()) for field in fields):
        return images.clone()  # bit for bit; gaussian blurs in any case
    return move_pixels(batch, *fields, interpolation).reshape(images.shape)
