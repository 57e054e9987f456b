"""Probes: images, their deformed versions and their noisy versions of the same distance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from relstab.diffeomorphism import deform
from relstab.noise import image_norms, isotropic_noise

__all__ = ["VERSIONS", "Probes", "make_probes"]

VERSIONS = ("images", "deformed", "noisy")


@dataclass(frozen=True)
class Probes:
    """Images and their two perturbed versions: the input of :func:`relstab.measure_sensitivity`.

    Attributes:
        images: x, [P, ...].
        deformed: tau(x), same shape and dtype.
        noisy: x + eta, same shape and dtype, with |eta| = |tau(x) - x| image by image.
    """

    images: Tensor
    deformed: Tensor
    noisy: Tensor

    def __post_init__(self) -> None:
        for name in ("deformed", "noisy"):
            version: Tensor = getattr(self, name)
            if version.shape != self.images.shape or version.dtype != self.images.dtype:
                raise ValueError(
                    f"expected {name} probes of the images' shape and dtype, {tuple(self.images.shape)} {self.images.dtype}, "
                    f"got {tuple(version.shape)} {version.dtype}"
                )
        if not self.images.is_floating_point():
            raise ValueError(f"expected probes of a floating-point dtype, got {self.images.dtype}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> "Probes":
        return Probes(self.images[index], self.deformed[index], self.noisy[index])


def make_probes(
    images: Tensor,
    displacement: float = 1.0,
    cutoff: int = 3,
    interpolation: str = "bilinear",
    generator: torch.Generator | None = None,
) -> Probes:
    """Deform images and add to them noise of the same distance, image by image (paper, Eq. 1).

    Args:
        images: x, [P, C, n, n], floating point, normalised as the network expects them.
        displacement, cutoff, interpolation: of the diffeomorphism, see :func:`relstab.deform`.
        generator: source of both perturbations, on any device; torch's global generator by default.
    """
    deformed = deform(images, displacement, cutoff, interpolation, generator)
    return Probes(images, deformed, images + isotropic_noise(images, image_norms(deformed - images), generator))
