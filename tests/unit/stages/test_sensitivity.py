"""Sensitivities of saved networks: a sweep over displacements and cutoffs against the file of one of them, and closed forms."""

import numpy as np
import pytest
import torch

import relstab
from relstab.config import Training
from relstab.files.dataset import read_dataset, read_noisy_test
from relstab.stages.datasets import prepare_dataset, write_noisy_test
from relstab.stages.networks import train_and_save
from relstab.stages.probes import perturb_test_images
from relstab.stages.sensitivity import measure_network, measure_sweep
from relstab.stages.tables import network_table, sensitivity_table, sweep_table

PAIRS = [(1.0, 3), (2.0, 3), (0.5, 5)]
KEYS = ["dataset", "architecture", "noise", "seed", "training_images"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of 40 training images, its sensitivities at displacement 1 and cutoff 3, and its sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    prepare_dataset(folder / "digits.h5", "mnist5k", test_images=100, nested=True)
    write_noisy_test(folder / "test.h5", folder / "digits.h5", 0.0)
    dataset = read_dataset(folder / "digits.h5", 40)
    train_and_save(
        folder / "network.h5", "lenet", dataset, read_noisy_test(folder / "test.h5"), Training(epochs=2), 0.0, 1, device="cpu"
    )
    perturb_test_images(folder / "probes.h5", folder / "test.h5", 50, 1.0, 3, "bilinear")
    measure_network(folder / "plain.h5", folder / "network.h5", folder / "probes.h5", device="cpu")
    measure_sweep(folder / "sweep.h5", folder / "network.h5", folder / "test.h5", 50, PAIRS, device="cpu")
    return folder


def test_a_sweep_contains_what_was_measured_at_its_displacement(folder):
    plain, sweep = sensitivity_table([folder / "plain.h5"], []), sweep_table([folder / "sweep.h5"])
    assert sweep.groupby(["displacement", "cutoff", "state"], sort=False)["layer"].unique().map(list).tolist() == [
        ["input", "output"]
    ] * len(sweep.groupby(["displacement", "cutoff", "state"]))
    same = sweep.query("displacement == 1 and cutoff == 3").set_index(["state", "layer"])
    measured = plain[plain["layer"].isin(["input", "output"])].set_index(["state", "layer"])
    for column in ("D", "G", "R", "denominator"):
        np.testing.assert_allclose(same[column], measured.loc[same.index, column], rtol=1e-5, err_msg=column)
    # The same fields twice as large: between those of an image of white noise, which saturates, and of a smooth one, D ~ delta^2.
    inputs = sweep[(sweep["layer"] == "input") & (sweep["state"] == "trained")].set_index(["displacement", "cutoff"])
    assert 1.5 < inputs.loc[(2.0, 3), "D"] / inputs.loc[(1.0, 3), "D"] < 4
    np.testing.assert_allclose(inputs["R"], 1, rtol=1e-5)


def test_the_size_of_the_training_set_is_a_key_of_every_table(folder):
    networks = network_table([folder / "network.h5"])
    for table in (networks, sensitivity_table([folder / "plain.h5"], []), sweep_table([folder / "sweep.h5"])):
        assert table.columns[:5].tolist() == KEYS
        assert table["training_images"].unique().tolist() == [40]


def test_networks_of_two_sizes_are_drawn_apart(folder):
    test = read_noisy_test(folder / "test.h5")
    states = [
        relstab.train_network("lenet", read_dataset(folder / "digits.h5", size), test, Training(epochs=1), 0.0, 1, device="cpu")
        for size in (40, 41)
    ]
    first, second = (network.states["init"]["features.0.weight"] for network in states)
    assert not torch.equal(first, second)
