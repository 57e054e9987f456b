"""Isotropic Gaussian noise: of a given norm for the probes, of a given scale for noisy data sets."""

import math

import torch
from torch import Tensor

__all__ = ["add_noise", "image_norms", "isotropic_noise"]


def image_norms(images: Tensor) -> Tensor:
    """L2 norm of each image, [N], in float64 where the device has it: in float32, a sum of 150,528 squares is 1e-6 too small."""
    dtype = torch.float64 if images.device.type != "mps" else None
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1, dtype=dtype)
    return norms


def _normal_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    device = images.device if generator is None else generator.device
    normal = torch.randn(images.shape, dtype=images.dtype, device=device, generator=generator)
    return normal.to(images.device)


def isotropic_noise(images: Tensor, norm: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
    """Noise of uniformly random direction and given L2 norm for each image.

    eta = norm * z / |z| with z standard normal in every entry of the image (paper, Eq. 1: eta has the norm of
    tau(x) - x).

    Args:
        images: [N, ...], floating point; only their shape, dtype and device matter.
        norm: [N], one per image, or one number for all; not negative.
        generator: source of the noise, on any device; torch's global generator by default.

    Returns:
        The noise alone, of the shape, dtype and device of ``images``.
    """
    if images.ndim < 2:
        raise ValueError(f"expected images of shape [N, ...] with at least one entry per image, got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"expected images of a floating-point dtype, got {images.dtype}")
    norms = torch.as_tensor(norm, dtype=images.dtype, device=images.device)
    if norms.shape not in ((), (len(images),)):
        raise ValueError(
            f"expected norm to be one number or one for each of the {len(images)} images, got shape {tuple(norms.shape)}"
        )
    if not bool((norms.isfinite() & (norms >= 0)).all()):
        raise ValueError("expected norm to be finite and not negative, got entries that are negative, NaN or infinite")
    normal = _normal_like(images, generator)
    noise: Tensor = normal.flatten(1) * (norms / image_norms(normal)).to(images.dtype)[:, None]
    return noise.reshape(images.shape)


def add_noise(images: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Images plus Gaussian noise of standard deviation sigma / sqrt(d) per entry: its norm is about sigma.

    d is the number of entries of an image; the images are already normalised. These are the noisy data sets of the paper
    (section 1 and figure 1, right).

    Args:
        images: [N, ...], floating point.
        sigma: typical norm of the noise, not negative; 0 returns the images.
        generator: source of the noise, on any device; torch's global generator by default.
    """
    if not (sigma >= 0 and math.isfinite(sigma)):
        raise ValueError(f"expected sigma to be finite and not negative, got {sigma}")
    if sigma == 0:
        return images
    noise = _normal_like(images, generator) * (sigma / math.sqrt(images[0].numel()))
    return torch.add(images, noise)
