"""Perturbations of images with two lit sites: local deformations that move each by one site, and white noise to match."""

from typing import Literal

import torch
from torch import Tensor

from relstab.probes import Probes
from relstab.scale_detection.tasks import ScaleTask

__all__ = ["Noise", "make_pair_probes", "move_sites"]

Noise = Literal["gaussian", "rectified"]


def move_sites(task: ScaleTask, sites: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Move each lit site by one: on the ring to the left or right, on an image also up or down, at random.

    A move over an end of the ring or an edge of the image is not made, and in Task 2 none that leaves the block, since it would
    change the label.

    Args:
        task: whose images they are.
        sites: [N, lit].
        generator: of the moves, on the CPU.

    Returns:
        The sites after the moves, [N, lit]. Two that meet are one lit site.
    """
    direction = torch.randint(0, 2 * task.dimension, sites.shape, generator=generator)
    step = 2 * (direction % 2) - 1
    before = task.coordinates(sites)
    after = before.clone()
    for axis in range(task.dimension):
        after[..., axis] += torch.where(direction // 2 == axis, step, 0).to(sites.dtype)
    allowed = ((after >= 0) & (after < task.size)).all(-1)
    if task.rule == "block":
        allowed &= (after // task.scale == before // task.scale).all(-1)
    return task.at(torch.where(allowed[..., None], after, before))


def make_pair_probes(
    task: ScaleTask, sites: Tensor, noise: Noise = "gaussian", generator: torch.Generator | None = None
) -> Probes:
    """Images of pairs, the same with each lit site moved by one, and with noise.

    The noise is Gaussian, independent from entry to entry, of the variance that makes E|eta|^2 = E|tau x - x|^2 over the images;
    "rectified" sets its negative entries to 0, as the reference implementation does, which halves E|eta|^2.

    Args:
        task: whose images they are.
        sites: [P, 2].
        noise: "gaussian" or "rectified".
        generator: of both perturbations, on the CPU.
    """
    if noise not in ("gaussian", "rectified"):
        raise ValueError(f"expected noise to be 'gaussian' or 'rectified', got {noise!r}")
    images, deformed = task.images(sites), task.images(move_sites(task, sites, generator))
    variance = (deformed - images).square().mean(dtype=torch.float64)
    eta = torch.randn(images.shape, generator=generator) * variance.sqrt().float()
    return Probes(images, deformed, images + (eta.clamp_(min=0) if noise == "rectified" else eta))
