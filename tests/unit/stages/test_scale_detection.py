"""The scale-detection tasks as data sets and probes for deep networks."""

import numpy as np
import pytest
import torch

from relstab.files.dataset import normalise, read_dataset
from relstab.files.probes import read_probes
from relstab.scale_detection.tasks import ScaleTask
from relstab.stages.scale_detection import load_test_pairs, save_pair_dataset, save_pair_probes

IMAGES = ScaleTask("distance", 10, 5, 2, dimension=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.h5"
    save_pair_dataset(path, "pairs", IMAGES, 60, 40, seed=5)
    return path


def test_pairs_are_a_data_set_of_images(dataset):
    found = read_dataset(dataset)
    assert (found.name, found.classes, found.image_shape) == ("pairs", 2, (1, 10, 10))
    lit = {}
    for part, count in (("train", 60), ("test", 40)):
        images, labels = found.images[part], found.labels[part]
        assert (images.dtype, images.shape) == (np.uint8, (count, 1, 10, 10))
        assert (labels.dtype, labels.shape, labels.sum()) == (np.int64, (count,), count // 2)
        assert (images == 255).sum() == 2 * count
        assert (images == 0).sum() == 98 * count
        sites = torch.from_numpy(np.nonzero(images.reshape(count, 100))[1].reshape(count, 2))
        np.testing.assert_array_equal(IMAGES.label(sites[:, 0], sites[:, 1]).numpy(), 2 * labels - 1)
        lit[part] = set(map(tuple, sites.tolist()))
        assert len(lit[part]) == count
        # Normalised, they are the images of the task.
        normalised = normalise(torch.from_numpy(images), found)
        torch.testing.assert_close(normalised, IMAGES.images(sites), rtol=1e-6, atol=0)
        assert float(normalised.max()) == pytest.approx(IMAGES.height, rel=1e-6)
    assert not lit["train"] & lit["test"]


def test_pairs_are_read_as_they_were_written(dataset):
    task, pairs = load_test_pairs(dataset)
    found = read_dataset(dataset)
    assert task == IMAGES
    assert (pairs.sites.dtype, pairs.labels.dtype) == (torch.int32, torch.int8)
    assert set(pairs.labels.tolist()) == {1, -1}
    torch.testing.assert_close(task.images(pairs.sites) > 0, torch.from_numpy(found.images["test"] > 0))
    np.testing.assert_array_equal(pairs.labels.numpy() > 0, found.labels["test"] > 0)


def test_pairs_follow_from_the_seed(dataset, tmp_path):
    for name, seed, same in (("again.h5", 5, True), ("other.h5", 6, False)):
        save_pair_dataset(tmp_path / name, "pairs", IMAGES, 60, 40, seed=seed)
        for part, images in read_dataset(dataset).images.items():
            assert np.array_equal(read_dataset(tmp_path / name).images[part], images) == same


def test_probes_are_the_first_test_pairs(dataset, tmp_path):
    save_pair_probes(tmp_path / "probes.h5", dataset, 30, seed=5)
    probes = read_probes(tmp_path / "probes.h5")
    task, pairs = load_test_pairs(dataset)
    assert [tuple(version.shape) for version in (probes.images, probes.deformed, probes.noisy)] == [(30, 1, 10, 10)] * 3
    assert torch.equal(probes.images, task.images(pairs.sites[:30]))
    lit = (probes.deformed > 0).sum((1, 2, 3))
    assert ((lit == 1) | (lit == 2)).all()
    assert (probes.noisy < probes.images).any()
    # They are what a network trained on the data set sees.
    first = normalise(torch.from_numpy(read_dataset(dataset).images["test"][:30]), read_dataset(dataset))
    torch.testing.assert_close(probes.images, first, rtol=1e-6, atol=0)
    save_pair_probes(tmp_path / "again.h5", dataset, 30, seed=5)
    assert torch.equal(read_probes(tmp_path / "again.h5").noisy, probes.noisy)


def test_what_cannot_be_written_is_refused(dataset, tmp_path):
    path = tmp_path / "file.h5"
    with pytest.raises(ValueError, match="expected a task of dimension 2, images, got 1"):
        save_pair_dataset(path, "ring", ScaleTask("block", 16, 4), 20, 10)
    with pytest.raises(ValueError, match=r"expected at most 3068 pairs, .* got 3000 training pairs and 100 test pairs"):
        save_pair_dataset(path, "pairs", IMAGES, 3000, 100)
    with pytest.raises(ValueError, match=r"expected at most 40 probes, .* got 41"):
        save_pair_probes(path, dataset, 41)
    with pytest.raises(FileNotFoundError, match="does not exist: run the stage that makes it first"):
        save_pair_probes(path, tmp_path / "nothing.h5", 4)
    assert not list(tmp_path.iterdir())
