"""The stage of the probes: test images in, their perturbed versions out."""

from pathlib import Path

from torch import Tensor

from relstab.files.dataset import read_noisy_test
from relstab.files.hdf5 import read_attributes
from relstab.files.probes import write_probes
from relstab.probes import make_probes
from relstab.seeding import make_generator

__all__ = ["first_test_images", "perturb_test_images"]


def first_test_images(noisy_test: str | Path, number: int) -> tuple[Tensor, str]:
    """The test images that are perturbed, [P, C, n, n], and the name of their data set."""
    images, _ = read_noisy_test(noisy_test)
    if number > len(images):
        raise ValueError(
            f"expected at most {len(images)} probes, the size of the test set, got {number} (config.yaml: probes.images)"
        )
    return images[:number], str(read_attributes(noisy_test)["name"])


def perturb_test_images(
    path: str | Path,
    noisy_test: str | Path,
    number: int,
    displacement: float,
    cutoff: int,
    interpolation: str,
    seed: int = 0,
) -> None:
    """Perturb the first test images of a data set and write the three versions to HDF5.

    All noise levels have the same images and the same perturbations, so that levels differ by their noise alone.

    Args:
        path: of the HDF5 file of probes.
        noisy_test: file of :func:`relstab.stages.datasets.write_noisy_test`.
        number: P, the number of probes.
        displacement, cutoff, interpolation: of the diffeomorphism, see :func:`relstab.deform`.
        seed: of the run.
    """
    images, dataset = first_test_images(noisy_test, number)
    probes = make_probes(images, displacement, cutoff, interpolation, make_generator("probes", dataset, seed))
    parameters = {"images": number, "displacement": displacement, "cutoff": cutoff, "interpolation": interpolation}
    write_probes(path, probes, dataset, parameters, seed)
