import math

import h5py
import numpy as np
import pytest
import torch

import relstab
from relstab.files.dataset import read_noisy_test
from relstab.files.hdf5 import write_hdf5
from relstab.files.probes import read_images, read_probes
from relstab.probes import VERSIONS
from relstab.stages.probes import perturb_test_images


def test_noise_has_the_given_norm_image_by_image(generator):
    norm = torch.tensor([0.0, 1.0, 7.5], dtype=torch.float64)
    noise = relstab.isotropic_noise(torch.zeros(3, 2, 5, 5, dtype=torch.float64), norm, generator)
    torch.testing.assert_close(torch.linalg.vector_norm(noise.flatten(1), dim=1), norm, rtol=1e-13, atol=0)


def test_noise_has_no_preferred_direction(generator):
    """With |eta| = sqrt(d) entries have variance 1 and are uncorrelated; over N = 20,000 images the error is 1 / sqrt(N)."""
    noise = relstab.isotropic_noise(torch.zeros(20_000, 4, dtype=torch.float64), 2.0, generator)
    covariance = noise.T @ noise / len(noise)
    assert (covariance - torch.eye(4, dtype=torch.float64)).abs().max() < 5 / math.sqrt(20_000)
    assert noise.mean(0).abs().max() < 5 / math.sqrt(20_000)


def test_added_noise_has_norm_about_sigma(generator):
    """|noise|^2 / sigma^2 is chi-squared over d with d = 3072: mean 1, standard deviation sqrt(2 / d) = 0.026; 200 images."""
    images = torch.rand(200, 3, 32, 32, generator=generator)
    noise = relstab.add_noise(images, 30.0, generator) - images
    squares = noise.flatten(1).square().sum(1) / 30**2
    assert abs(float(squares.mean()) - 1) < 5 * math.sqrt(2 / 3072 / 200)
    assert relstab.add_noise(images, 0.0) is images


def test_probes_have_noise_of_the_deformations_norm(generator):
    images = torch.rand(5, 3, 16, 16, dtype=torch.float64, generator=generator)
    probes = relstab.make_probes(images, generator=generator)
    moved = torch.linalg.vector_norm((probes.deformed - images).flatten(1), dim=1)
    added = torch.linalg.vector_norm((probes.noisy - images).flatten(1), dim=1)
    torch.testing.assert_close(added, moved, rtol=1e-12, atol=0)
    assert (moved > 0).all()


def test_large_images_have_noise_of_the_same_norm_too(generator):
    """150,528 entries in float32: each is rounded in its last place, 6e-8, and their sum not much more."""
    probes = relstab.make_probes(torch.randn(4, 3, 224, 224, generator=generator), generator=generator)
    diffeo, noise = ((version - probes.images).double().flatten(1).norm(dim=1) for version in (probes.deformed, probes.noisy))
    torch.testing.assert_close(noise / diffeo, torch.ones(4, dtype=torch.float64), rtol=0, atol=3e-7)


def test_probes_survive_the_disk_and_do_not_depend_on_the_noise_level(tmp_path):
    paths = {}
    for sigma in (0, 3):
        with write_hdf5(tmp_path / f"test{sigma}.h5", {"name": "some", "sigma": sigma}) as file:
            file["images"] = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(sigma)).numpy()
            file["labels"] = torch.zeros(6, dtype=torch.int64).numpy()
        paths[sigma] = tmp_path / f"probes{sigma}.h5"
        perturb_test_images(paths[sigma], tmp_path / f"test{sigma}.h5", 4, 1.0, 3, "bilinear", seed=1)
    first, second = read_probes(paths[0]), read_probes(paths[3])
    assert len(first) == 4
    # The same displacement fields: warping the second's images as the first's were gives the second's.
    direction = [(p.noisy - p.images).flatten(1) for p in (first, second)]
    cosine = torch.nn.functional.cosine_similarity(*direction)
    torch.testing.assert_close(cosine, torch.ones(4), rtol=0, atol=1e-5)


def test_more_probes_than_images_name_the_key(tmp_path):
    with write_hdf5(tmp_path / "test.h5", {"name": "some", "sigma": 0.0}) as file:
        file["images"] = torch.rand(6, 1, 16, 16).numpy()
        file["labels"] = torch.zeros(6, dtype=torch.int64).numpy()
    with pytest.raises(ValueError, match=r"expected at most 6 probes, .* got 7 \(config.yaml: probes.images\)"):
        perturb_test_images(tmp_path / "probes.h5", tmp_path / "test.h5", 7, 1.0, 3, "bilinear")
    assert not (tmp_path / "probes.h5").exists()


def test_probes_are_random_test_images(tmp_path):
    """The same of every noise level; the file says which, and figure 1 shows one and the same image at all levels."""
    for level in (0, 1):
        with write_hdf5(tmp_path / f"test{level}.h5", {"name": "some", "sigma": level}) as file:
            file["images"] = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(level)).numpy()
            file["labels"] = torch.zeros(40, dtype=torch.int64).numpy()
        perturb_test_images(tmp_path / f"probes{level}.h5", tmp_path / f"test{level}.h5", 6, 0.7, 3, "bilinear", seed=2)
    shown = read_images(tmp_path / "probes0.h5", {10.0: tmp_path / "test1.h5"}, 4)
    with h5py.File(tmp_path / "probes0.h5") as first, h5py.File(tmp_path / "probes1.h5") as second:
        positions = first["positions"][:]
        np.testing.assert_array_equal(second["positions"][:], positions)
        assert len(set(positions)) == 6
        assert sorted(positions) != list(range(6))
        for level, file in ((0, first), (1, second)):
            test, _ = read_noisy_test(tmp_path / f"test{level}.h5")
            np.testing.assert_array_equal(file["images"][:], test[positions].numpy())
        np.testing.assert_array_equal(shown["probe"]["images"], first["images"][4])
        np.testing.assert_array_equal(shown["noisy"][10.0], second["images"][4])
    perturb_test_images(tmp_path / "other.h5", tmp_path / "test0.h5", 6, 0.7, 3, "bilinear", seed=3)
    with h5py.File(tmp_path / "other.h5") as other:
        assert list(other["positions"]) != list(positions)


def batches_of(kind, images):
    for batch in images.split(3):
        labels = torch.zeros(len(batch), dtype=torch.int64)
        yield {"tensor": batch, "tuple": (batch, labels), "dict": {"labels": labels, "pixels": batch}, "numpy": batch.numpy()}[
            kind
        ]


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict", "numpy"])
def test_probes_of_a_loader_are_those_of_its_first_images(generator, kind):
    images = torch.rand(8, 1, 8, 8, generator=generator)
    expected = relstab.make_probes(images[:5], 0.6, generator=torch.Generator().manual_seed(1))
    options = {"displacement": 0.6, "generator": torch.Generator().manual_seed(1)}
    probes = relstab.probes_of(batches_of(kind, images), 5, **options)
    assert torch.equal(probes.images, images[:5])
    assert torch.equal(probes.noisy, expected.noisy)
    assert probes.made["displacement"] == 0.6
    with pytest.raises(ValueError, match="expected at least 9 images, got 8 from the loader"):
        relstab.probes_of(batches_of(kind, images), 9)


def test_numpy_images_are_perturbed_and_measured(generator):
    images = torch.rand(4, 1, 8, 8, generator=generator)
    one, two = (relstab.make_probes(x, 0.6, generator=torch.Generator().manual_seed(1)) for x in (images, images.numpy()))
    assert torch.equal(one.deformed, two.deformed)
    arrays = relstab.Probes(*(getattr(one, version).numpy() for version in VERSIONS))
    assert relstab.measure_sensitivity(torch.nn.Flatten(), arrays).equals(relstab.measure_sensitivity(torch.nn.Flatten(), one))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relstab.isotropic_noise(torch.zeros(3, 4), torch.ones(2)), r"expected norm .* got shape \(2,\)"),
        (lambda: relstab.isotropic_noise(torch.zeros(3, 4), -1.0), "negative"),
        (lambda: relstab.isotropic_noise(torch.zeros(3), 1.0), r"\[N, ...\]"),
        (lambda: relstab.isotropic_noise(torch.zeros(3, 4, dtype=torch.uint8), 1.0), "uint8"),
        (lambda: relstab.add_noise(torch.zeros(3, 4), -1.0), "expected sigma .* got -1"),
        (
            lambda: relstab.Probes(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3)),
            r"deformed probes .* got \(2, 4\)",
        ),
        (lambda: relstab.Probes(*[torch.zeros(2, 3, dtype=torch.int64)] * 3), "int64"),
        (lambda: relstab.probes_of([torch.zeros(2, 3)], 2), r"expected batches of .*, got Tensor of \[\(2, 3\)\]"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_normalisation_of_the_reference_makes_the_noise_of_probes_larger_by_a_quarter(generator):
    """CIFAR-10: |eta| is 18.9 with the reference's standard deviations, 15.1 with the pixels' own; sigma counts in these units.

    For channels of like images the ratio is the root of that of the sums of 1 / std^2, 1.25.
    """
    own, reference = (torch.tensor(std)[:, None, None] for std in ((0.2470, 0.2435, 0.2616), (0.2023, 0.1994, 0.2010)))
    pixels = torch.rand(100, 1, 16, 16, generator=generator).expand(-1, 3, -1, -1)
    norms = []
    for std in (own, reference):
        probes = relstab.make_probes(pixels / std, generator=torch.Generator().manual_seed(0))
        norms.append((probes.noisy - probes.images).flatten(1).norm(dim=1).mean())
    assert float(norms[1] / norms[0]) == pytest.approx(18.9 / 15.1, rel=0.01)
