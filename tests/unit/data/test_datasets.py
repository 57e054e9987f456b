import h5py
import numpy as np
import pytest
import torch

from relstab.data.datasets import normalise, prepare_dataset, read_dataset, read_noisy_test, write_noisy_test
from relstab.data.published import SYSTEM_FASHION_MNIST


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "mnist5k.h5"
    prepare_dataset(path, "mnist5k")
    return read_dataset(path)


def test_digits_are_split_by_class_without_overlap(digits):
    assert digits.image_shape == (1, 28, 28)
    assert digits.classes == 10
    assert np.bincount(digits.labels["train"]).tolist() == [400] * 10
    assert np.bincount(digits.labels["test"]).tolist() == [100] * 10
    both = np.concatenate([digits.images["train"], digits.images["test"]]).reshape(5000, -1)
    assert len(np.unique(both, axis=0)) == 5000
    # Not in the order of the classes.
    assert len(set(digits.labels["train"][:50].tolist())) == 10


def test_digits_are_the_real_ones(digits):
    """A nearest mean over the training images gets four of five test digits right: labels belong to their images."""
    train = digits.images["train"].reshape(4000, -1).astype(float)
    means = np.stack([train[digits.labels["train"] == digit].mean(0) for digit in range(10)])
    distance = ((digits.images["test"].reshape(1000, 1, -1) - means) ** 2).sum(2)
    assert (distance.argmin(1) == digits.labels["test"]).mean() > 0.75


def test_normalised_training_pixels_have_mean_0_and_deviation_1(digits):
    images = normalise(torch.from_numpy(digits.images["train"]), digits).double()
    assert abs(float(images.mean())) < 1e-5
    assert float(images.std()) == pytest.approx(1, abs=1e-5)


def test_the_split_follows_the_seed(tmp_path, digits):
    for seed in (0, 1):
        prepare_dataset(tmp_path / f"{seed}.h5", "mnist5k", seed=seed)
    assert np.array_equal(read_dataset(tmp_path / "0.h5").images["test"], digits.images["test"])
    assert not np.array_equal(read_dataset(tmp_path / "1.h5").images["test"], digits.images["test"])


def test_fewer_images_are_balanced(tmp_path):
    prepare_dataset(tmp_path / "few.h5", "mnist5k", train_images=105, test_images=20)
    few = read_dataset(tmp_path / "few.h5")
    counts = np.bincount(few.labels["train"])
    assert counts.sum() == 105
    assert counts.max() - counts.min() <= 1
    assert np.bincount(few.labels["test"]).tolist() == [2] * 10
    with pytest.raises(ValueError, match=r"4001 images are wanted .*data.train_images.* has 4000"):
        prepare_dataset(tmp_path / "many.h5", "mnist5k", train_images=4001)
    assert not (tmp_path / "many.h5").exists()


def test_noisy_test_images_have_noise_of_norm_sigma_and_stay(tmp_path, digits):
    for name in ("a", "b"):
        write_noisy_test(tmp_path / f"{name}.h5", digits, 30.0)
    write_noisy_test(tmp_path / "clean.h5", digits, 0.0)
    noisy, labels = read_noisy_test(tmp_path / "a.h5")
    clean, _ = read_noisy_test(tmp_path / "clean.h5")
    assert torch.equal(noisy, read_noisy_test(tmp_path / "b.h5")[0])
    assert labels.tolist() == digits.labels["test"].tolist()
    norms = torch.linalg.vector_norm((noisy - clean).flatten(1), dim=1)
    # Chi with d = 784: relative deviation 1 / sqrt(2 d) = 0.025; the mean over 1,000 images to five standard errors.
    assert float(norms.mean()) == pytest.approx(30, rel=5 * 0.025 / 1000**0.5 + 1 / (4 * 784))


@pytest.mark.skipif(not SYSTEM_FASHION_MNIST.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_whole_of_fashion_mnist(tmp_path):
    prepare_dataset(tmp_path / "fashion.h5", "fashionmnist")
    fashion = read_dataset(tmp_path / "fashion.h5")
    assert np.bincount(fashion.labels["train"]).tolist() == [6000] * 10
    assert np.bincount(fashion.labels["test"]).tolist() == [1000] * 10
    # Published statistics of the training pixels.
    assert float(fashion.mean[0]) == pytest.approx(0.2860, abs=1e-4)
    assert float(fashion.std[0]) == pytest.approx(0.3530, abs=1e-4)


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data set 'cifar' is unknown: one of mnist5k"):
        prepare_dataset(tmp_path / "x.h5", "cifar")


def test_the_file_says_what_made_it(tmp_path):
    prepare_dataset(tmp_path / "a.h5", "mnist5k", train_images=10, test_images=10, seed=3)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["seed"] == 3
        assert '"train_images": 10' in file.attrs["parameters"]
