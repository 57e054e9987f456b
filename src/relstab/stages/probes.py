"""The stage of the probes: test images in, their perturbed versions out."""

from pathlib import Path

import torch
from torch import Tensor

from relstab.files.dataset import read_dataset_name, read_noisy_test
from relstab.files.hdf5 import read_attributes
from relstab.files.probes import write_probes
from relstab.probes import make_probes
from relstab.runs.seeding import make_generator

__all__ = ["choose_test_images", "perturb_test_images"]


def choose_test_images(noisy_test: str | Path, number: int, seed: int) -> tuple[Tensor, Tensor, str]:
    """The random test images to perturb, [P, C, n, n], their places in the test set, [P], and the name of the data set."""
    images, _ = read_noisy_test(noisy_test)
    if number > len(images):
        raise ValueError(
            f"expected at most {len(images)} probes, the size of the test set, got {number} (config.yaml: probes.images)"
        )
    dataset = read_dataset_name(noisy_test)
    chosen = torch.randperm(len(images), generator=make_generator("probe images", dataset, seed))[:number]
    return images[chosen], chosen, dataset


def perturb_test_images(
    path: str | Path,
    noisy_test: str | Path,
    number: int,
    displacement: float,
    cutoff: int,
    interpolation: str,
    seed: int = 0,
) -> None:
    """Perturb random test images of a data set and write the three versions to HDF5.

    All noise levels have the same images and the same perturbations, so that levels differ by their noise alone.

    Args:
        path: of the HDF5 file of probes.
        noisy_test: file of :func:`relstab.stages.datasets.write_noisy_test`.
        number: P, the number of probes.
        displacement, cutoff, interpolation: of the diffeomorphism, see :func:`relstab.deform`.
        seed: of the run.
    """
    images, chosen, dataset = choose_test_images(noisy_test, number, seed)
    probes = make_probes(images, displacement, cutoff, interpolation, make_generator("probes", dataset, seed))
    parameters = {"images": number, "displacement": displacement, "cutoff": cutoff, "interpolation": interpolation}
    write_probes(path, probes, dataset, parameters, seed, chosen.numpy(), float(read_attributes(noisy_test)["sigma"]))
