"""The event file of a training run: the history of its network, each epoch once, whatever happened in between."""

import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from relstab.config import Training
from relstab.files.dataset import normalise, read_dataset
from relstab.files.network import HISTORY, read_history
from relstab.stages.datasets import prepare_dataset
from relstab.stages.networks import train_and_save

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Training(epochs=5, batch_size=20, width=0.1, optimizer="adam", learning_rate=1e-3)
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "mnist5k.h5"
    prepare_dataset(path, "mnist5k", train_images=20 * STEPS_PER_EPOCH, test_images=50)
    return read_dataset(path)


def train(digits, folder, recipe=RECIPE, log=True):
    """Train, with the event file in ``folder / "log"``; the columns of the history in the network's file."""
    test = normalise(torch.from_numpy(digits.images["test"]), digits), torch.from_numpy(digits.labels["test"])
    path = folder / "network.h5"
    train_and_save(path, "fc2", digits, test, recipe, 2.0, 0, device="cpu", tensorboard=folder / "log" if log else None)
    return read_history(path)[1]


def curves(folder, shown=None):
    """Points of each scalar as TensorBoard shows them, one that is opened now or one that was opened before."""
    shown = (shown or EventAccumulator(str(folder / "log"))).Reload()
    return {name: [(event.step, event.value) for event in shown.Scalars(name)] for name in shown.Tags()["scalars"]}


def assert_is_the_history(folder, history, shown=None):
    points = curves(folder, shown)
    assert set(points) == set(HISTORY) - {"epoch"}
    for name, values in points.items():
        steps, numbers = zip(*values, strict=True)
        np.testing.assert_array_equal(steps, history["epoch"], err_msg=name)
        np.testing.assert_array_equal(np.float32(numbers), np.float32(history[name]), err_msg=name)


def test_the_event_file_is_the_history(digits, tmp_path):
    history = train(digits, tmp_path)
    assert len(history["epoch"]) == RECIPE.epochs
    assert_is_the_history(tmp_path, history)


@pytest.mark.parametrize("log", [True, False], ids=["with an event file", "without"])
def test_a_training_that_was_killed_continues_its_curves(digits, tmp_path, killed_after, log):
    """Killed within epochs 2 and 4; the first part wrote an event file, or did not."""
    (tmp_path / "log").mkdir()
    opened = EventAccumulator(str(tmp_path / "log"))
    for epochs in (1, 3):
        with killed_after(epochs * STEPS_PER_EPOCH + 2):
            train(digits, tmp_path, log=log)
        if log:
            assert [step for step, _ in curves(tmp_path, opened)["train_loss"]] == [*range(1, epochs + 1)]
    history = train(digits, tmp_path)
    assert_is_the_history(tmp_path, history)
    assert_is_the_history(tmp_path, history, opened)


def test_another_recipe_replaces_the_curves(digits, tmp_path):
    train(digits, tmp_path)
    assert_is_the_history(tmp_path, train(digits, tmp_path, RECIPE.model_copy(update={"epochs": 2})))


def test_a_training_without_it_needs_no_package_and_is_the_same(digits, tmp_path, monkeypatch):
    with_file = train(digits, tmp_path)
    for name in [name for name in sys.modules if "tensorboard" in name.split(".")] + ["tensorboard", "torch.utils.tensorboard"]:
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "other").mkdir()
    without = train(digits, tmp_path / "other", log=False)
    for name in HISTORY:
        np.testing.assert_array_equal(without[name], with_file[name])
    with pytest.raises(ImportError):
        train(digits, tmp_path)
