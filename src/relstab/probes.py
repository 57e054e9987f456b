"""Probes: images, their deformed versions and their noisy versions of the same distance."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from relstab.diffeomorphism import deform_for
from relstab.files.dataset import read_dataset_name, read_noisy_test
from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5
from relstab.noise import image_norms, isotropic_noise
from relstab.seeding import make_generator

__all__ = ["VERSIONS", "Probes", "make_probes", "read_probes", "write_probes"]

VERSIONS = ("images", "deformed", "noisy")


@dataclass(frozen=True)
class Probes:
    """Images and their two perturbed versions, the input of :func:`relstab.measure_sensitivity`.

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
                    f"{name} probes are {tuple(version.shape)} {version.dtype}, and the images are "
                    f"{tuple(self.images.shape)} {self.images.dtype}: the same shape and dtype is wanted"
                )
        if not self.images.is_floating_point():
            raise ValueError(f"probes are {self.images.dtype}: a floating-point dtype is wanted")

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
        images: x, [P, C, n, n], floating point, normalised as the network wants them.
        displacement, cutoff, interpolation: the diffeomorphism's, see :func:`relstab.deform`.
        generator: source of both perturbations, on any device; torch's global one by default.
    """
    deformed = deform_for(3, images, displacement, cutoff, interpolation, generator)
    return Probes(images, deformed, images + isotropic_noise(images, image_norms(deformed - images), generator))


def write_probes(
    path: str | Path,
    noisy_test: str | Path,
    number: int,
    displacement: float,
    cutoff: int,
    interpolation: str,
    seed: int = 0,
) -> None:
    """Perturb the first test images of a data set and write the three versions to HDF5.

    The same images and the same perturbations serve every noise level, so that levels differ by their noise alone.

    Args:
        path: of the HDF5 file.
        noisy_test: file of :func:`relstab.stages.datasets.write_noisy_test`.
        number: P, how many images.
        displacement, cutoff, interpolation: of the diffeomorphism, see :func:`relstab.deform`.
        seed: of the whole run.
    """
    images, _ = read_noisy_test(noisy_test)
    if number > len(images):
        raise ValueError(f"{number} probes are wanted (config.yaml: probes.images), and the test set has {len(images)} images")
    dataset = read_dataset_name(noisy_test)
    probes = make_probes(images[:number], displacement, cutoff, interpolation, make_generator("probes", dataset, seed))
    parameters = {"images": number, "displacement": displacement, "cutoff": cutoff, "interpolation": interpolation}
    with write_hdf5(path, {"name": dataset, **provenance(parameters, seed)}) as file:
        for version in VERSIONS:
            file[version] = getattr(probes, version).numpy()


def read_probes(path: str | Path) -> Probes:
    """Probes written by :func:`write_probes`."""
    with open_hdf5(path) as file:
        return Probes(*(torch.from_numpy(file[version][:]) for version in VERSIONS))
