"""Random smooth deformations of images: the ensemble of maximal entropy at fixed norm of the gradient.

A deformation tau moves the pixel at (row, col) by a displacement field (dx, dy), in pixels, with x along
columns and y along rows:

    tau x (row, col) = x(row - dy(row, col), col - dx(row, col)),

coordinates clamped to the image. Each of dx / n and dy / n is an independent sum of sine modes that vanishes
at the border (Petrini et al., arXiv 2105.02468, section 2),

    u(x, y) = sqrt(T) * sum over i, j >= 1, sqrt(i^2 + j^2) < c + 1/2, of C_ij / sqrt(i^2 + j^2) sin(i pi x) sin(j pi y),

with C_ij standard normal, x and y on linspace(0, 1, n), T the temperature and c the cutoff.
"""

import math
import warnings

import torch
from torch import Tensor

from relstab.interpolation import check_interpolation, move_pixels

__all__ = ["deform", "displacement_field", "temperature", "temperature_range", "typical_displacement"]


# Pixels of the fields that are computed at a time, so that the fields do not take more memory than the images.
_PIXELS = 2**22


def _check_size_and_cutoff(size: int, cutoff: int) -> None:
    if size < 2:
        raise ValueError(f"expected images of at least 2 pixels per side, got size {size}")
    if cutoff < 2:
        raise ValueError(f"expected cutoff to be at least 2, because ln(cutoff) sets the scale of the displacement, got {cutoff}")


def temperature(displacement: float, cutoff: int, size: int) -> float:
    """Temperature T at which the typical displacement is ``displacement`` pixels.

    T = 4 delta^2 / (pi n^2 ln c), the inverse of :func:`typical_displacement`.

    Args:
        displacement: delta, in pixels, not negative.
        cutoff: c, the largest mode number, at least 2.
        size: n, pixels per side.
    """
    _check_size_and_cutoff(size, cutoff)
    if not (displacement >= 0 and math.isfinite(displacement)):
        raise ValueError(f"expected displacement to be a finite number of pixels, not negative, got {displacement}")
    return 4 * displacement**2 / (math.pi * size**2 * math.log(cutoff))


def typical_displacement(temperature: float, cutoff: int, size: int) -> float:
    """Typical displacement delta = n / 2 * sqrt(pi T ln c), in pixels (Petrini et al., appendix).

    Args:
        temperature: T, not negative.
        cutoff: c, the largest mode number, at least 2.
        size: n, pixels per side.
    """
    _check_size_and_cutoff(size, cutoff)
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"expected temperature to be finite and not negative, got {temperature}")
    return size / 2 * math.sqrt(math.pi * temperature * math.log(cutoff))


def temperature_range(size: int, cutoff: int) -> tuple[float, float]:
    """Admissible temperatures [1 / (pi n^2 ln c), 4 / (pi^3 c^2 ln c)].

    Below the first, the typical displacement is less than half a pixel and interpolation dominates. Above the second, the field
    folds and is not a diffeomorphism.
    """
    _check_size_and_cutoff(size, cutoff)
    log_cutoff = math.log(cutoff)
    return 1 / (math.pi * size**2 * log_cutoff), 4 / (math.pi**3 * cutoff**2 * log_cutoff)


def displacement_field(coefficients: Tensor, size: int, temperature: float) -> Tensor:
    """One component of the displacement field, in pixels, from its mode coefficients.

    field[row, col] = n sqrt(T) * sum_ij C_ij / sqrt(i^2 + j^2) sin(i pi col / (n - 1)) sin(j pi row / (n - 1)),
    over sqrt(i^2 + j^2) < c + 1/2: two matrix products for all images of a batch.

    Args:
        coefficients: C, [..., c, c], standard normal; the first of the two indices is i, of the columns.
            The cutoff is read from the shape.
        size: n, pixels per side.
        temperature: T, see :func:`temperature`.

    Returns:
        [..., n, n], of the dtype and on the device of ``coefficients``.
    """
    if coefficients.ndim < 2 or coefficients.shape[-1] != coefficients.shape[-2]:
        raise ValueError(f"expected coefficients of shape [..., c, c], got {tuple(coefficients.shape)}")
    if not coefficients.is_floating_point():
        raise ValueError(f"expected coefficients of a floating-point dtype, got {coefficients.dtype}")
    if size < 2:
        raise ValueError(f"expected images of at least 2 pixels per side, got size {size}")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"expected temperature to be finite and not negative, got {temperature}")
    cutoff = coefficients.shape[-1]
    mode = torch.arange(1, cutoff + 1, dtype=coefficients.dtype, device=coefficients.device)
    norm = (mode[:, None] ** 2 + mode**2).sqrt()
    weight = torch.where(norm < cutoff + 0.5, 1 / norm, 0)
    sines = torch.sin(math.pi * mode[:, None] * torch.linspace(0, 1, size, dtype=mode.dtype, device=mode.device))  # [mode, pixel]
    field = sines.T @ (weight * coefficients).transpose(-1, -2) @ sines
    return size * math.sqrt(temperature) * field


def deform(
    images: Tensor,
    displacement: float = 1.0,
    cutoff: int = 3,
    interpolation: str = "bilinear",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Deform each image by a random diffeomorphism, which is the same for all channels of the image.

    For images in half precision, fields and positions are computed in float32.

    Args:
        images: [N, C, n, n], a tensor or numpy array, floating point.
        displacement: delta, the typical displacement in pixels.
        cutoff: c, the largest mode number of the field, at least 2.
        interpolation: "bilinear", "nearest" or "gaussian", see :func:`relstab.warp`.
        generator: source of the coefficients, on any device; torch's global generator by default.

    Returns:
        The deformed images, of the shape, dtype and device of ``images``.

    Warns:
        UserWarning: when the temperature is outside :func:`temperature_range`.
    """
    images = torch.as_tensor(images)
    if images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"expected square images of shape [N, C, n, n], got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"expected images of a floating-point dtype, got {images.dtype}")
    check_interpolation(interpolation)
    size = images.shape[-1]
    temperature_ = temperature(displacement, cutoff, size)
    low, high = temperature_range(size, cutoff)
    # A tolerance of 1e-9, so that a displacement of exactly half a pixel does not warn because of rounding.
    if displacement > 0 and not low * (1 - 1e-9) <= temperature_ <= high * (1 + 1e-9):
        warnings.warn(
            f"displacement {displacement:g} with cutoff {cutoff} on {size} pixels is a temperature of {temperature_:.3g}, "
            f"outside the admissible range [{low:.3g}, {high:.3g}], which is a displacement of "
            f"{typical_displacement(low, cutoff, size):.3g} to {typical_displacement(high, cutoff, size):.3g} pixels",
            stacklevel=2,
        )
    device = images.device if generator is None else generator.device
    dtype = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    coefficients = torch.randn(2, len(images), cutoff, cutoff, dtype=dtype, device=device, generator=generator).to(images.device)
    if displacement == 0 and interpolation != "gaussian":
        return images.clone()  # bit for bit; gaussian blurs in any case
    deformed = torch.empty_like(images)
    at_once = max(1, _PIXELS // size**2)
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        dx, dy = displacement_field(coefficients[:, part], size, temperature_)
        deformed[part] = move_pixels(images[part], dx, dy, interpolation)
    return deformed
