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

# Dropout and momentum; batch norm, a diffeomorphism, snapshots and epochs that end within passes; Adam. Each takes about a second
# and a half.
PAPER = {"schedule_fraction": 0.8, "crop_padding": 4, "flip": True}
RECIPES = {
    "alexnet": Training(epochs=10, batch_size=20, learning_rate=0.02, width=0.03, **PAPER),
    "vgg11_bn": Training(
        epochs=10,
        steps_per_epoch=11,
        batch_size=20,
        learning_rate=0.02,
        width=0.04,
        snapshots=4,
        diffeo_displacement=0.6,
        **PAPER,
    ),
    "fc4": Training(epochs=50, batch_size=20, learning_rate=1e-3, width=0.1, optimizer="adam", weight_decay=0.0, **PAPER),
}
# A few hundredths of a second: most kills then fall near a checkpoint or into the writing of one.
OFTEN = 0.03 / 60


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "mnist5k.h5"
    prepare_dataset(path, "mnist5k", train_images=300, test_images=100)
    return path


def train(digits, path, architecture, minutes=OFTEN, file_limit=None, changes=None, other=None):
    """The job of a process: train, save, with all that is printed in a log beside the file."""
    torch.set_num_threads(1)
    if file_limit is not None:  # as on a full disk, for this process alone
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    dataset = read_dataset(digits)
    test = normalise(torch.from_numpy(dataset.images["test"]), dataset), torch.from_numpy(dataset.labels["test"])
    if other is not None:
        dataset, test = other(dataset, test)
    recipe = RECIPES[architecture].model_copy(update=changes or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".log").open("a", buffering=1) as log, contextlib.redirect_stdout(log):
        train_and_save(path, architecture, dataset, test, recipe, 2.0, 0, device="cpu", checkpoint_minutes=minutes)


@pytest.fixture(scope="module")
def start():
    """Start a training in a process of its own, quickly: torch is loaded once, in the process that they are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["relstab.training.train"])

    def start(*arguments, **options):
        process = context.Process(target=train, args=arguments, kwargs=options)
        process.start()
        return process

    start(*[None] * 3).join()  # the fork server itself takes seconds to start; this job fails at once
    return start


def finish(process):
    process.join(timeout=120)
    return process.exitcode


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
def undisturbed(digits, start, tmp_path_factory):
    """Of each architecture: the file of a training that was left alone, and how long it took."""
    found = {}
    for architecture in RECIPES:
        path = tmp_path_factory.mktemp("undisturbed") / "network.h5"
        begin = time.monotonic()
        assert finish(start(digits, path, architecture)) == 0
        found[architecture] = path, time.monotonic() - begin
    return found


@pytest.mark.slow
def test_trainings_killed_at_twenty_random_moments_end_with_the_same_weights(digits, start, undisturbed, tmp_path):
    moments = random.Random(4)
    continued = 0
    for number in range(20):
        architecture = list(RECIPES)[number % len(RECIPES)]
        reference, duration = undisturbed[architecture]
        path = tmp_path / str(number) / "network.h5"
        process = start(digits, path, architecture)
        # A quarter at any moment from the start on, the others at any moment from the first checkpoint on.
        while number % 4 and process.is_alive() and not list(path.with_suffix(".checkpoints").rglob("step*.h5")):
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.5) * duration)
        process.kill()
        assert finish(process) in (-signal.SIGKILL, 0)
        assert finish(start(digits, path, architecture)) == 0
        assert_same(path, reference)
        assert sorted(entry.name for entry in path.parent.iterdir()) == ["network.h5", "network.log"]
        continued += "continued from the checkpoint in epoch" in path.with_suffix(".log").read_text()
    # Where the machine is busy some end before they are killed, but not most.
    assert continued >= 5


@pytest.mark.slow
def test_one_training_killed_again_and_again_ends_with_the_same_weights(digits, start, undisturbed, tmp_path):
    reference, duration = undisturbed["vgg11_bn"]
    path = tmp_path / "network.h5"
    for _ in range(6):
        process = start(digits, path, "vgg11_bn")
        time.sleep(0.3 * duration)
        process.kill()
        process.join()
    assert finish(start(digits, path, "vgg11_bn")) == 0
    assert_same(path, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_before_the_training_stops(digits, start, undisturbed, tmp_path, number):
    reference, _ = undisturbed["alexnet"]
    path = tmp_path / "network.h5"
    process = start(digits, path, "alexnet", minutes=1000)  # no checkpoint of its own accord
    while not path.with_suffix(".log").exists() or "epoch 3 of" not in path.with_suffix(".log").read_text():
        time.sleep(0.01)
        assert process.is_alive()
    os.kill(process.pid, number)
    assert finish(process) == (128 + signal.SIGTERM if number == signal.SIGTERM else 1)
    log = path.with_suffix(".log").read_text()
    assert re.search(rf"stopped by {number.name}: .*/network.checkpoints/\w+/step\d+.h5 will be continued from", log)
    assert not path.exists()
    assert len(list(path.with_suffix(".checkpoints").rglob("*.h5"))) == 1
    assert finish(start(digits, path, "alexnet", minutes=1000)) == 0
    assert re.search(r"continued from the checkpoint in epoch [4-9], batch \d+ of 15", path.with_suffix(".log").read_text())
    assert_same(path, reference)


def test_a_full_disk_leaves_whole_files_and_the_next_training_ends_well(digits, start, undisturbed, tmp_path):
    """The network fits into the space that is left, its checkpoints do not; then neither does."""
    reference, _ = undisturbed["vgg11_bn"]
    with_space, without = tmp_path / "some" / "network.h5", tmp_path / "none" / "network.h5"
    size = reference.stat().st_size
    assert finish(start(digits, with_space, "vgg11_bn", file_limit=size)) == 0
    assert "no checkpoint could be written" in with_space.with_suffix(".log").read_text()
    assert_same(with_space, reference)
    assert finish(start(digits, without, "vgg11_bn", file_limit=size // 4)) == 1
    assert not list(without.parent.rglob("*.h5"))
    assert finish(start(digits, without, "vgg11_bn")) == 0
    assert_same(without, reference)


def stopped(digits, start, path, architecture="fc4", changes=None):
    """A training that was stopped in its middle, with two checkpoints."""
    process = start(digits, path, architecture, changes=changes)
    folder = path.with_suffix(".checkpoints")
    while len(list(folder.rglob("step*.h5"))) < 2 and process.is_alive():
        time.sleep(0.005)
    process.terminate()
    process.join()
    checkpoints = sorted(folder.rglob("step*.h5"))
    assert len(checkpoints) == 2
    return checkpoints


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "not HDF5"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(digits, start, undisturbed, tmp_path, damage):
    path = tmp_path / "network.h5"
    before, last = stopped(digits, start, path)
    whole = last.read_bytes()
    position = whole.index(content_of(last, "order"))
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "one byte": whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
        "not HDF5": b"x" * len(whole),
    }
    last.write_bytes(damaged[damage])
    reached = int(re.search(r"\d+", before.name)[0])
    assert finish(start(digits, path, "fc4")) == 0
    log = path.with_suffix(".log").read_text()
    assert re.search(rf"the checkpoint .*{last.name} cannot be read \(.+\): not used, and set aside as {last.stem}.broken", log)
    epoch, batch = map(int, re.findall(r"continued from the checkpoint in epoch (\d+), batch (\d+)", log)[-1])
    assert (epoch - 1) * 15 + batch == reached
    assert_same(path, undisturbed["fc4"][0])


def content_of(path, name):
    with h5py.File(path) as file:
        return file[f"tensors/{name}"][()].tobytes()


def test_a_checkpoint_of_another_recipe_is_not_used_and_waits_for_its_own(digits, start, undisturbed, tmp_path):
    path = tmp_path / "network.h5"
    _, last = stopped(digits, start, path)
    changes = {"learning_rate": 2e-3}
    assert finish(start(digits, path, "fc4", changes=changes)) == 0
    log = path.with_suffix(".log").read_text()
    assert "are of another training (recipe.learning_rate is 0.001, and here 0.002): kept, not used" in log
    assert "continued from the" not in log
    alone = tmp_path / "alone" / "network.h5"
    assert finish(start(digits, alone, "fc4", changes=changes)) == 0
    assert_same(path, alone)
    # It is another network indeed; and back with the first recipe, the training goes on.
    assert not np.array_equal(content(path)["last/1.weight"], content(undisturbed["fc4"][0])["last/1.weight"])
    assert last.exists()
    assert finish(start(digits, path, "fc4")) == 0
    assert "continued from the" in path.with_suffix(".log").read_text()
    assert_same(path, undisturbed["fc4"][0])
    # They wait until the network is read, which Snakemake does once the job has succeeded; those of other recipes wait on.
    other = path.with_suffix(".checkpoints") / "of_another_recipe"
    other.mkdir()
    assert (last.parent / "saved").exists()
    discard_saved(path)
    assert list(path.with_suffix(".checkpoints").iterdir()) == [other]
    other.rmdir()
    discard_saved(path)
    assert not path.with_suffix(".checkpoints").exists()


def test_a_checkpoint_that_was_put_in_anothers_place_is_refused(digits, start, undisturbed, tmp_path):
    path = tmp_path / "network.h5"
    before, last = stopped(digits, start, path)
    before.unlink()
    last.unlink()
    for file in stopped(digits, start, tmp_path / "other" / "network.h5", changes={"learning_rate": 2e-3}):
        shutil.copy(file, last.parent / file.name)
    assert finish(start(digits, path, "fc4")) == 0
    log = path.with_suffix(".log").read_text()
    assert (
        log.count("is of another training (recipe.learning_rate is 0.002, and here 0.001): not used, and set aside as step") == 2
    )
    assert_same(path, undisturbed["fc4"][0])


def noisier(dataset, test):
    return dataset, (test[0] + 1, test[1])


def fewer(dataset, test):
    kept = {part: images[:290] for part, images in dataset.images.items()}
    labels = {part: labels[:290] for part, labels in dataset.labels.items()}
    return dataclasses.replace(dataset, images=kept, labels=labels), test


@pytest.mark.parametrize(("other", "named"), [(fewer, "other images"), (noisier, "other test_images")])
def test_a_checkpoint_of_other_images_is_not_used(digits, start, tmp_path, other, named):
    path = tmp_path / "network.h5"
    stopped(digits, start, path)
    assert finish(start(digits, path, "fc4", other=other)) == 0
    log = path.with_suffix(".log").read_text()
    assert f"are of another training ({named}): kept, not used" in log
    assert "continued from the" not in log


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
