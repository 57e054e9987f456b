"""Networks that a job trains for other jobs: which ones, when, and what is in their files."""

import os
import threading
import time

import numpy as np
import pytest
import torch

from relstab.config import Training
from relstab.files.dataset import Dataset
from relstab.files.hdf5 import planned_as, read_plan, write_hdf5
from relstab.files.trained_early import PlannedNetwork, early_path, planned_like, take_early, write_planned
from relstab.runs.claim import claim
from relstab.stages import networks as stage
from relstab.stages.networks import its_turn, train_and_save
from relstab.training.training_run import TrainingRun

from helpers import contents

RECIPE = Training(epochs=2, batch_size=8, width=0.05)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Makes a network of a run; its inputs were made before the run began, two minutes ago."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def make(noise="0", seed="0", architecture="fc2", options="same", made=()):
        wildcards = {"dataset": "noise", "architecture": architecture, "noise": noise, "subset": "", "seed": seed}
        name = f"networks/{architecture}/noise{noise}/seed{seed}.h5"
        plan = {"rule": "train", "wildcards": wildcards, "options": {"recipe": options}, "file": name}
        for file in ("images.h5", f"test{noise}.h5"):
            if not os.path.exists(file):
                touch(file, 600)
        return PlannedNetwork(name, plan, "images.h5", f"test{noise}.h5", "", [*made])

    return make


def touch(path, seconds_ago):
    """A file that was changed that long ago."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "a"):
        pass
    now = time.time()
    os.utime(path, (now - seconds_ago, now - seconds_ago))


def begin(*networks):
    """A run that trains these networks begins."""
    write_planned(".", networks)
    touch(".planned_networks.json", 120)


def save_early(network, plan=None):
    with planned_as(plan or network.plan), write_hdf5(early_path(network.path), {}, "network") as file:
        file["weights"] = [1.0, 2.0]


def test_a_network_that_another_job_trained_is_moved_to_its_place(planned):
    network = planned()
    assert not take_early(network)
    save_early(network)
    assert take_early(network)
    assert read_plan(network.path) == network.plan
    assert not early_path(network.path).exists()


def test_a_network_of_other_images_or_another_recipe_is_not_taken(planned):
    network, other = planned(), planned(options="other")
    save_early(network, other.plan)
    assert not take_early(network)
    assert not early_path(network.path).exists()
    for file in (network.dataset, network.test):
        save_early(network)
        touch(file, -60)
        assert not take_early(network)
        touch(file, 600)


def test_a_job_trains_what_its_run_trains_and_is_ready(planned):
    own, another_seed, another_noise = planned(), planned(seed="1"), planned(noise="1")
    others = {
        "another architecture": planned(architecture="fc3"),
        "another recipe": planned(seed="2", options="other"),
        "already trained": planned(seed="3"),
        "already trained by another job": planned(seed="4"),
        "its test images are not made yet": planned(noise="2", made=["test2.h5"]),
        "without test images": planned(noise="4"),
    }
    old, made = planned(seed="5"), planned(noise="3", made=["test3.h5"])
    begin(own, another_seed, another_noise, *others.values(), old, made)
    touch(others["already trained"].path, 30)
    save_early(others["already trained by another job"])
    os.remove("test4.h5")
    touch(old.path, 300)  # of another config: this run makes it again
    touch("test3.h5", 30)
    assert planned_like(own, ".") == [another_seed, another_noise, old, made]


def test_without_a_list_there_are_no_others(planned):
    assert planned_like(planned(), ".") == []


def test_jobs_share_out_the_networks(planned):
    """The first job takes three, the next one that has none the rest; a job whose network is claimed waits, and takes it."""
    networks = [planned(seed=str(seed)) for seed in range(5)]
    begin(*networks)
    ended = []

    def job(network):
        with its_turn(network, ".", 3) as others:
            ended.append((network.seed, others))

    waiting = threading.Thread(target=job, args=[networks[2]])
    with its_turn(networks[0], ".", 3) as others:
        assert others == networks[1:3]
        with its_turn(networks[3], ".", 3) as others:
            assert others == [networks[4]]
        waiting.start()
        for network in (networks[0], networks[2]):
            save_early(network)
        waiting.join()
    assert ended == [(2, None)]
    assert os.path.exists(networks[2].path)
    with its_turn(networks[1], ".", 1) as others:  # a job that trains its own alone
        assert others == []


def test_a_job_that_fails_leaves_the_networks_to_their_jobs(planned):
    networks = [planned(seed=str(seed)) for seed in range(2)]
    begin(*networks)
    with pytest.raises(KeyboardInterrupt), its_turn(networks[0], ".", 2):
        raise KeyboardInterrupt
    with its_turn(networks[1], ".", 2) as others:
        assert others == networks[:1]


def test_claims_leave_no_files(planned, tmp_path):
    with claim(planned().path, lambda: ["other"], 2) as claimed:
        assert len(claimed) == 2
    assert [path.name for path in tmp_path.glob("relstab-claims-*/*")] == ["choosing.lock"]


@pytest.fixture
def trained(monkeypatch):
    """Trains networks in one job, and gives the contents of their files; on a CPU, one after the other."""
    rng = np.random.default_rng(0)
    parts = {part: rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8) for part in ("train", "test")}
    labels = {part: np.arange(20) % 5 for part in parts}
    dataset = Dataset("noise", parts, labels, np.full(3, 0.5, np.float32), np.full(3, 0.29, np.float32))

    def noisy(file):
        noise = float(file.removeprefix("test").removesuffix(".h5"))
        generator = torch.Generator().manual_seed(int(noise))
        return torch.randn(20, 3, 8, 8, generator=generator), torch.arange(20) % 5

    monkeypatch.setattr(stage, "read_noisy_test", noisy)

    def train(own, *others, recipe=RECIPE):
        test = noisy(own.test)
        train_and_save(own.path, "fc2", dataset, test, recipe, own.sigma, own.seed, device="cpu", others=others)
        return [contents(own.path), *(contents(early_path(each.path)) for each in others)]

    return train


@pytest.mark.usefixtures("one_thread")
def test_networks_of_other_jobs_are_those_that_they_train_themselves(planned, trained):
    networks = [planned(), planned(seed="1"), planned(noise="2")]
    together = trained(*networks)
    assert [read_plan(early_path(each.path)) for each in networks[1:]] == [each.plan for each in networks[1:]]
    assert [take_early(network) for network in networks[1:]] == [True, True]
    for network, found in zip(networks, together, strict=True):
        os.remove(network.path)
        np.testing.assert_equal(trained(network)[0], found)
    assert len({tuple(found["history/train_loss"]) for found in together}) == 3


def test_an_error_of_another_network_is_left_to_its_job(planned, trained, monkeypatch, capsys):
    step = TrainingRun.step
    own, other = planned(), planned(seed="1")

    def fails(run):
        if run.network.key.seed == 1:
            raise FloatingPointError("it diverged")
        step(run)

    monkeypatch.setattr(TrainingRun, "step", fails)
    with pytest.raises(FileNotFoundError):  # there is no file of the other one
        trained(own, other)
    assert os.path.exists(own.path)
    assert "a network of another job failed, and that job will report it: it diverged" in capsys.readouterr().out
    with pytest.raises(FloatingPointError, match="it diverged"):
        trained(other)


def test_networks_that_do_not_fit_together_are_counted(planned, trained, monkeypatch):
    def fails(_run):
        raise MemoryError("batches of 8 images do not fit")

    monkeypatch.setattr(TrainingRun, "checked_step", fails)
    message = r"^batches of 8 images do not fit; this job trains 2 networks \(config.yaml: networks_per_job\)$"
    with pytest.raises(MemoryError, match=message):
        trained(planned(), planned(seed="1"))
