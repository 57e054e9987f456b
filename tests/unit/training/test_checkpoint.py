"""Trainings that are killed, stopped, out of disk or given the wrong checkpoint, against one that was left alone."""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import time

import h5py
import numpy as np
import pytest
import torch

import relstab
from relstab.config import Training
from relstab.files.checkpoints import discard_saved
from relstab.files.dataset import normalise, read_dataset
from relstab.stages.datasets import prepare_dataset
from relstab.stages.networks import train_and_save
from relstab.training.checkpoint import Checkpoint, Checkpoints
from relstab.training.training_run import TrainingRun

pytestmark = pytest.mark.usefixtures("one_thread")

# Dropout and momentum; batch norm, a diffeomorphism, snapshots and epochs that end within passes; Adam. A pass over the images
# is six steps.
PAPER = {"batch_size": 20, "schedule_fraction": 0.8, "crop_padding": 4, "flip": True}
RECIPES = {
    "alexnet": Training(epochs=3, learning_rate=0.02, width=0.03, **PAPER),
    "vgg11_bn": Training(
        epochs=5, steps_per_epoch=4, learning_rate=0.02, width=0.04, snapshots=4, diffeo_displacement=0.6, **PAPER
    ),
    "fc4": Training(epochs=5, learning_rate=1e-3, width=0.1, optimizer="adam", weight_decay=0.0, **PAPER),
}
STEPS = {"alexnet": 18, "vgg11_bn": 20, "fc4": 30}
EVERY_STEP = 1e-9
NEVER = 1000.0


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "mnist5k.h5"
    prepare_dataset(path, "mnist5k", train_images=120, test_images=100)
    return path


def train(digits, path, architecture, minutes=EVERY_STEP, changes=None, other=None):
    """The job of a process: train, save, with all that is printed in a log beside the file."""
    torch.set_num_threads(1)
    dataset = read_dataset(digits)
    test = normalise(torch.from_numpy(dataset.images["test"]), dataset), torch.from_numpy(dataset.labels["test"])
    if other is not None:
        dataset, test = other(dataset, test)
    recipe = RECIPES[architecture].model_copy(update=changes or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".log").open("a", buffering=1) as log, contextlib.redirect_stdout(log):
        train_and_save(path, architecture, dataset, test, recipe, 2.0, 0, device="cpu", checkpoint_minutes=minutes)


def log_of(path):
    return path.with_suffix(".log").read_text()


def checkpoints_of(path):
    return sorted(path.with_suffix(".checkpoints").rglob("step*.h5"))


@pytest.fixture
def stopped(digits, killed_after):
    """A training that is stopped in its middle, with two checkpoints."""

    def stopped(path, architecture="fc4", changes=None, steps=7):
        with killed_after(steps):
            train(digits, path, architecture, NEVER, changes)
        before, last = checkpoints_of(path)
        assert before.name == f"step{steps - 1:010d}.h5"
        assert last.name == f"step{steps:010d}.h5"
        return before, last

    return stopped


def content(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same(path, undisturbed):
    one, two = content(path), content(undisturbed)
    assert one.keys() == two.keys()
    for name, value in two.items():
        np.testing.assert_array_equal(one[name], value, err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    """Of each architecture: the file of a training that was left alone, without a checkpoint."""
    found = {architecture: tmp_path_factory.mktemp("undisturbed") / "network.h5" for architecture in RECIPES}
    for architecture, path in found.items():
        train(digits, path, architecture, NEVER)
    return found


@pytest.mark.parametrize("architecture", RECIPES)
def test_a_training_continues_from_any_of_its_steps(digits, stopped, undisturbed, tmp_path, architecture):
    """Within an epoch or a pass, at their ends, and more than once."""
    path = tmp_path / "network.h5"
    for steps in (2, 4, 6, 8, 13):
        stopped(path, architecture, steps=steps)
    train(digits, path, architecture, NEVER)
    assert log_of(path).count("continued from the checkpoint in epoch") == 5
    assert_same(path, undisturbed[architecture])
    discard_saved(path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["network.h5", "network.log"]


@pytest.fixture(scope="module")
def start():
    """Start a training in its own process, quickly: torch is loaded once, in the process that they are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["relstab.training.train"])

    def start(*arguments, **options):
        process = context.Process(target=train, args=arguments, kwargs=options)
        process.start()
        return process

    return start


def finish(process):
    process.join(timeout=120)
    return process.exitcode


@pytest.mark.slow
def test_trainings_killed_at_random_moments_end_with_the_same_weights(digits, start, undisturbed, tmp_path):
    """After a random step or, as the steps take milliseconds, within the writing of its checkpoint; some more than once."""
    moments = random.Random(4)
    for number in range(9):
        architecture = list(RECIPES)[number % len(RECIPES)]
        path = tmp_path / str(number) / "network.h5"
        for kills in range(1 + 2 * (number >= 6)):
            process = start(digits, path, architecture)
            last = moments.randrange(STEPS[architecture] - 2) if kills == 0 else 0
            while process.is_alive() and not [file for file in checkpoints_of(path) if file.name > f"step{last:010d}"]:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.02))
            process.kill()
            assert finish(process) in (-signal.SIGKILL, 0)
        assert finish(start(digits, path, architecture)) == 0
        assert_same(path, undisturbed[architecture])
        discard_saved(path)
        assert sorted(entry.name for entry in path.parent.iterdir()) == ["network.h5", "network.log"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_before_the_training_stops(digits, undisturbed, tmp_path, monkeypatch, number):
    path = tmp_path / "network.h5"

    def step_and_signal(run, step=TrainingRun.step):
        step(run)
        if run.step_number == 8:
            assert signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler)
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "step", step_and_signal)
        with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt) as stop:
            train(digits, path, "alexnet", NEVER)
    assert number == signal.SIGINT or stop.value.code == 128 + number
    sentence = rf"stopped by {number.name}: run again to continue from .*/network.checkpoints/\w+/step0000000008.h5"
    assert re.search(sentence, log_of(path))
    assert not path.exists()
    assert len(checkpoints_of(path)) == 1
    train(digits, path, "alexnet", NEVER)
    assert "continued from the checkpoint in epoch 2, batch 2 of 6" in log_of(path)
    assert_same(path, undisturbed["alexnet"])


@contextlib.contextmanager
def file_limit(size):
    """As on a full disk: no file of this process grows beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_whole_files_and_the_next_training_ends_well(digits, undisturbed, tmp_path):
    """The network fits into the space that is left, its checkpoints do not; then neither does."""
    reference = undisturbed["alexnet"]
    with_space, without = tmp_path / "some" / "network.h5", tmp_path / "none" / "network.h5"
    size = reference.stat().st_size
    with file_limit(size):
        train(digits, with_space, "alexnet")
    assert "no checkpoint could be written" in log_of(with_space)
    assert_same(with_space, reference)
    with file_limit(size // 4), pytest.raises(OSError, match="File too large"):
        train(digits, without, "alexnet")
    assert not list(without.parent.rglob("*.h5"))
    train(digits, without, "alexnet", NEVER)
    assert_same(without, reference)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "not HDF5"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(digits, stopped, undisturbed, tmp_path, damage):
    path = tmp_path / "network.h5"
    _, last = stopped(path)
    whole = last.read_bytes()
    position = whole.index(content_of(last, "order"))
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "one byte": whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
        "not HDF5": b"x" * len(whole),
    }
    last.write_bytes(damaged[damage])
    train(digits, path, "fc4", NEVER)
    set_aside = rf"the checkpoint .*{last.name} cannot be read \(.+\): not used, and set aside as {last.stem}.broken"
    assert re.search(set_aside, log_of(path))
    assert "continued from the checkpoint in epoch 1, batch 6 of 6" in log_of(path)
    assert_same(path, undisturbed["fc4"])


def content_of(path, name):
    with h5py.File(path) as file:
        return file[f"tensors/{name}"][()].tobytes()


def test_a_checkpoint_of_another_recipe_is_not_used_and_waits_for_its_own(digits, stopped, undisturbed, tmp_path):
    path = tmp_path / "network.h5"
    _, last = stopped(path)
    changes = {"learning_rate": 2e-3}
    train(digits, path, "fc4", NEVER, changes)
    assert "are of another training (recipe.learning_rate is 0.001, and here 0.002): kept, not used" in log_of(path)
    assert "continued from the" not in log_of(path)
    alone = tmp_path / "alone" / "network.h5"
    train(digits, alone, "fc4", NEVER, changes)
    assert_same(path, alone)
    # It is another network indeed; and back with the first recipe, the training goes on.
    assert not np.array_equal(content(path)["last/1.weight"], content(undisturbed["fc4"])["last/1.weight"])
    assert last.exists()
    train(digits, path, "fc4", NEVER)
    assert "continued from the" in log_of(path)
    assert_same(path, undisturbed["fc4"])
    # They wait until the network is read, which Snakemake does once the job has succeeded; those of other recipes wait on.
    other = path.with_suffix(".checkpoints") / "of_another_recipe"
    other.mkdir()
    assert (last.parent / "saved").exists()
    discard_saved(path)
    assert list(path.with_suffix(".checkpoints").iterdir()) == [other]
    other.rmdir()
    discard_saved(path)
    assert not path.with_suffix(".checkpoints").exists()


def test_a_checkpoint_that_was_put_in_anothers_place_is_refused(digits, stopped, undisturbed, tmp_path):
    path = tmp_path / "network.h5"
    before, last = stopped(path)
    before.unlink()
    last.unlink()
    for file in stopped(tmp_path / "other" / "network.h5", changes={"learning_rate": 2e-3}):
        shutil.copy(file, last.parent / file.name)
    train(digits, path, "fc4", NEVER)
    refusal = "is of another training (recipe.learning_rate is 0.002, and here 0.001): not used, and set aside as step"
    assert log_of(path).count(refusal) == 2
    assert_same(path, undisturbed["fc4"])


def noisier(dataset, test):
    return dataset, (test[0] + 1, test[1])


def fewer(dataset, test):
    kept = {part: images[:110] for part, images in dataset.images.items()}
    labels = {part: labels[:110] for part, labels in dataset.labels.items()}
    return dataclasses.replace(dataset, images=kept, labels=labels), test


@pytest.mark.parametrize(("other", "named"), [(fewer, "other images"), (noisier, "other test_images")])
def test_a_checkpoint_of_other_images_is_not_used(digits, stopped, tmp_path, other, named):
    path = tmp_path / "network.h5"
    stopped(path)
    train(digits, path, "fc4", NEVER, other=other)
    assert f"are of another training ({named}): kept, not used" in log_of(path)
    assert "continued from the" not in log_of(path)


def test_checkpoints_come_back_as_they_were(tmp_path):
    tensors = {
        "model/a": torch.randn(3, 4, 2, 2).contiguous(memory_format=torch.channels_last),
        "model/step": torch.tensor(7.0),
        "order": torch.randperm(9),
        "empty": torch.zeros(0),
        "generators/cpu": torch.get_rng_state(),
    }
    # More than the 64 KB that an attribute of HDF5 holds.
    values = {"history": [{"epoch": epoch, "loss": epoch / 7} for epoch in range(4000)], "lowest": None}
    checkpoints = Checkpoints(tmp_path / "c", {"recipe": {"rate": 0.1}, "shape": (1, 2)})
    assert checkpoints.load() is None
    for step in (5, 1200, 70000, 8_000_000):
        checkpoints.save(step, Checkpoint(tensors, values | {"step": step}))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step0000070000.h5", "step0008000000.h5"]
    found = Checkpoints(tmp_path / "c", {"recipe": {"rate": 0.1}, "shape": (1, 2)}).load()
    assert found.values == values | {"step": 8_000_000}
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_a_loss_that_is_not_finite_is_not_saved(digits, tmp_path):
    dataset = read_dataset(digits)
    test = normalise(torch.from_numpy(dataset.images["test"]), dataset), torch.from_numpy(dataset.labels["test"])
    recipe = Training(epochs=3, batch_size=20, learning_rate=1e9)
    with pytest.raises(FloatingPointError, match="in epoch 1"), contextlib.redirect_stdout(io.StringIO()):
        relstab.train_network(
            "lenet", dataset, test, recipe, 0, 0, device="cpu", checkpoints=tmp_path / "c", checkpoint_minutes=1e-9
        )
    for path in (tmp_path / "c").rglob("*.h5"):
        assert np.isfinite(content(path)["tensors/total"])


def test_handlers_of_signals_come_back(digits, tmp_path):
    dataset = read_dataset(digits)
    test = normalise(torch.from_numpy(dataset.images["test"]), dataset), torch.from_numpy(dataset.labels["test"])
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    recipe = Training(epochs=1, width=0.05)
    relstab.train_network("fc2", dataset, test, recipe, 0, 0, device="cpu", checkpoints=tmp_path / "c")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
