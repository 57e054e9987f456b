"""Probes: images, their deformed versions and their noisy versions of the same distance."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relstab.diffeomorphism import deform
from relstab.noise import image_norms, isotropic_noise

__all__ = ["VERSIONS", "Probes", "make_probes", "probes_of"]

VERSIONS = ("images", "deformed", "noisy")


@dataclass(frozen=True)
class Probes:
    """Images and their two perturbed versions: the input of :func:`relstab.measure_sensitivity`.

    Attributes:
        images: x, [P, ...]; this and the next two are tensors or numpy arrays, which become tensors.
        deformed: tau(x), same shape and dtype.
        noisy: x + eta, same shape and dtype, with |eta| = |tau(x) - x| image by image.
        made: how they were made: displacement, cutoff, interpolation.
    """

    images: Tensor
    deformed: Tensor
    noisy: Tensor
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in VERSIONS:
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)))
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
        return Probes(self.images[index], self.deformed[index], self.noisy[index], self.made)


def make_probes(
    images: "Tensor | np.ndarray[Any, Any]",
    displacement: float = 1.0,
    cutoff: int = 3,
    interpolation: str = "bilinear",
    generator: torch.Generator | None = None,
) -> Probes:
    """Deform images and add to them noise of the same distance, image by image (paper, Eq. 1).

    Args:
        images: x, [P, C, n, n], a tensor or numpy array, floating point, normalised as the network expects them.
        displacement, cutoff, interpolation: of the diffeomorphism, see :func:`relstab.deform`.
        generator: source of both perturbations, on any device; torch's global generator by default.
    """
    images = torch.as_tensor(images)
    deformed = deform(images, displacement, cutoff, interpolation, generator)
    noisy = images + isotropic_noise(images, image_norms(deformed - images), generator)
    made = {"displacement": displacement, "cutoff": cutoff, "interpolation": interpolation}
    return Probes(images, deformed, noisy, made)


def probes_of(loader: Iterable[Any], number: int, **options: Any) -> Probes:
    """Probes of the first images of a DataLoader.

    Args:
        loader: yields batches: images [B, C, n, n]; a tuple or list that begins with them, as (images, labels); or a dict, whose
            first floating-point tensor of four axes holds them.
        number: P. Images sorted by class need a shuffling loader.
        options: displacement, cutoff, interpolation and generator of :func:`make_probes`.
    """
    images: list[Tensor] = []
    for batch in loader:
        values = list(batch.values()) if isinstance(batch, Mapping) else batch[:1] if isinstance(batch, list | tuple) else [batch]
        tensors = [torch.as_tensor(value) for value in values if isinstance(value, Tensor | np.ndarray)]
        found = next((tensor for tensor in tensors if tensor.ndim == 4 and tensor.is_floating_point()), None)
        if found is None:
            raise ValueError(
                f"expected batches of floating-point images [B, C, n, n], alone, first in a tuple, or in a dict, "
                f"got {type(batch).__name__} of {[tuple(tensor.shape) for tensor in tensors]}"
            )
        images.append(found)
        if sum(map(len, images)) >= number:
            return make_probes(torch.cat(images)[:number], **options)
    raise ValueError(f"expected at least {number} images, got {sum(map(len, images))} from the loader")
