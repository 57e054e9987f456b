"""Perturbations of images with two lit sites: local deformations that move each by one site, and white noise to match."""

import math
from typing import Literal

import torch
from torch import Tensor

from relstab.noise import image_norms, isotropic_noise
from relstab.probes import Probes
from relstab.scale_detection.tasks import ScaleTask

__all__ = ["Noise", "make_pair_probes", "move_sites"]

Noise = Literal["gaussian", "rectified"]


def move_sites(task: ScaleTask, sites: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Move each lit site by one, at random: on the ring to the left or right, on an image to one of eight neighbours.

    On an image the step is a random unit vector, rounded: along an axis with probability 2/3. Coordinates are clipped to the ring
    or the image, and in Task 2 to the block, since a move out of it would change the label.

    Args:
        task: whose images they are.
        sites: [N, lit].
        generator: of the moves, on the CPU.

    Returns:
        The sites after the moves, [N, lit]. Two that meet are one lit site.
    """
    if task.dimension == 1:
        steps = (2 * torch.randint(0, 2, sites.shape, generator=generator) - 1)[..., None]
    else:
        angle = 2 * math.pi * torch.rand(sites.shape, generator=generator)
        steps = torch.stack([angle.sin(), angle.cos()], -1).round()
    before = task.coordinates(sites)
    length = task.scale if task.rule == "block" else task.size
    first = before // length * length
    return task.at(torch.clamp(before + steps.to(before.dtype), first, first + length - 1))


def make_pair_probes(
    task: ScaleTask, sites: Tensor, noise: Noise = "gaussian", generator: torch.Generator | None = None
) -> Probes:
    """Images of pairs, the same images with each lit site moved by one, and the same images with noise.

    The noise is Gaussian. On the ring its entries are independent, of the variance that makes E|eta|^2 = E|tau x - x|^2 over the
    images; on an image |eta| = |tau x - x| image by image (paper, Eq. 1). "rectified" sets its negative entries to 0, as the
    reference implementation does on the ring, which halves E|eta|^2.

    Args:
        task: whose images they are.
        sites: [P, 2].
        noise: "gaussian" or "rectified".
        generator: of both perturbations, on the CPU.
    """
    if noise not in ("gaussian", "rectified"):
        raise ValueError(f"expected noise to be 'gaussian' or 'rectified', got {noise!r}")
    images, deformed = task.images(sites), task.images(move_sites(task, sites, generator))
    if task.dimension == 1:
        variance = (deformed - images).square().mean(dtype=torch.float64)
        eta = torch.randn(images.shape, generator=generator) * variance.sqrt().float()
    else:
        eta = isotropic_noise(images, image_norms(deformed - images), generator)
    return Probes(images, deformed, images + (eta.clamp_(min=0) if noise == "rectified" else eta))
