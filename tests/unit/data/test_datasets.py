import h5py
import numpy as np
import pytest
import torch

from relstab.data.datasets import balanced_choice, balanced_order
from relstab.data.published import SYSTEM_FASHION_MNIST
from relstab.files.dataset import normalise, pixel_histogram, pixel_moments, read_dataset, read_dataset_name, read_noisy_test
from relstab.stages.datasets import prepare_dataset, write_noisy_test


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "mnist5k.h5"
    prepare_dataset(path, "mnist5k")
    return path


@pytest.fixture(scope="module")
def digits(digits_file):
    return read_dataset(digits_file)


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
    """Labels belong to their images: the nearest class mean classifies at least three of four test digits correctly."""
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
    with pytest.raises(ValueError, match=r"data.train_images .*: expected at most 4000 images, got 4001"):
        prepare_dataset(tmp_path / "many.h5", "mnist5k", train_images=4001)
    assert not (tmp_path / "many.h5").exists()


def test_a_class_with_too_few_images_for_a_balanced_choice_is_named():
    with pytest.raises(ValueError, match="expected 3 images of class 1 for a balanced choice of 6, got 2: lower"):
        balanced_choice(np.repeat([0, 1], [5, 2]), 6, np.random.default_rng(0))


def test_training_sets_of_an_axis_are_nested_balanced_and_those_of_one_size(tmp_path):
    prepare_dataset(tmp_path / "nested.h5", "mnist5k", nested=True)
    whole = read_dataset(tmp_path / "nested.h5")
    assert whole.training_images is None
    for size in (10, 64, 2005):
        prepare_dataset(tmp_path / "one.h5", "mnist5k", train_images=size)
        part, one = read_dataset(tmp_path / "nested.h5", size), read_dataset(tmp_path / "one.h5")
        assert (part.training_images, part.available_images) == (size, 4000)
        assert np.array_equal(part.images["train"], whole.images["train"][:size])
        assert np.array_equal(part.images["test"], whole.images["test"])
        counts = np.bincount(part.labels["train"])
        assert counts.max() - counts.min() <= 1
        # The same images as with one size, in another order, normalised alike for all sizes.
        assert sorted(image.tobytes() for image in part.images["train"]) == sorted(
            image.tobytes() for image in one.images["train"]
        )
        np.testing.assert_array_equal(part.mean, whole.mean)
    for size in (9, 4001):
        with pytest.raises(
            ValueError, match=rf"from 10 \(one per class\) to 4000 training images of .*, got {size} \(config.yaml: "
        ):
            read_dataset(tmp_path / "nested.h5", size)


def test_an_order_is_balanced_until_the_smallest_class_is_used_up():
    labels = np.repeat([0, 1, 2], [2, 7, 20])
    order = balanced_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(29))
    assert labels[order].tolist() == [0, 1, 2, 0, 1, 2, *[1, 2] * 5, *[2] * 13]


def test_noisy_test_images_have_noise_of_norm_sigma_that_follows_the_seed(tmp_path, digits, digits_file):
    for name in ("a", "b"):
        write_noisy_test(tmp_path / f"{name}.h5", digits_file, 30.0)
    write_noisy_test(tmp_path / "clean.h5", digits_file, 0.0)
    assert read_dataset_name(tmp_path / "a.h5") == "mnist5k"
    noisy, labels = read_noisy_test(tmp_path / "a.h5")
    clean, _ = read_noisy_test(tmp_path / "clean.h5")
    assert torch.equal(noisy, read_noisy_test(tmp_path / "b.h5")[0])
    assert labels.tolist() == digits.labels["test"].tolist()
    norms = torch.linalg.vector_norm((noisy - clean).flatten(1), dim=1)
    # Chi with d = 784: relative deviation 1 / sqrt(2 d) = 0.025; the mean over 1,000 images to five standard errors.
    assert float(norms.mean()) == pytest.approx(30, rel=5 * 0.025 / 1000**0.5 + 1 / (4 * 784))


@pytest.mark.skipif(not SYSTEM_FASHION_MNIST.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_the_system_has_its_published_statistics(tmp_path):
    prepare_dataset(tmp_path / "fashion.h5", "fashionmnist")
    fashion = read_dataset(tmp_path / "fashion.h5")
    assert np.bincount(fashion.labels["train"]).tolist() == [6000] * 10
    assert np.bincount(fashion.labels["test"]).tolist() == [1000] * 10
    # Published statistics of the training pixels.
    assert float(fashion.mean[0]) == pytest.approx(0.2860, abs=1e-4)
    assert float(fashion.std[0]) == pytest.approx(0.3530, abs=1e-4)


def test_histograms_give_the_moments_of_random_pixels():
    images = np.random.default_rng(0).integers(0, 256, (300, 2, 71, 71), dtype=np.uint8)
    mean, std = pixel_moments(pixel_histogram(images))
    assert mean == pytest.approx(images.mean((0, 2, 3)) / 255, rel=1e-12)
    assert std == pytest.approx(images.std((0, 2, 3)) / 255, rel=1e-12)


def test_the_file_carries_its_parameters_and_seed(tmp_path):
    prepare_dataset(tmp_path / "a.h5", "mnist5k", train_images=10, test_images=10, seed=3)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["seed"] == 3
        assert '"train_images": 10' in file.attrs["parameters"]
