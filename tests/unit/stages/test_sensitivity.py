"""What the stages of sensitivity measure: states, shuffles, and the statistics of batch norm of each."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import relstab
from relstab.config import Training
from relstab.files.dataset import read_dataset, read_noisy_test
from relstab.files.network import NetworkKey, TrainedNetwork, copy_state, load_network, save_network
from relstab.files.probes import read_probes, write_probes
from relstab.files.sensitivity import read_sensitivity
from relstab.files.spectrum import read_spectra
from relstab.sensitivity_table import COLUMNS
from relstab.stages.datasets import prepare_dataset, write_noisy_test
from relstab.stages.networks import train_and_save
from relstab.stages.probes import perturb_test_images
from relstab.stages.sensitivity import measure_network, measure_over_training, measure_shuffled, measure_sweep
from relstab.stages.spectra import analyse_filters
from relstab.stages.tables import network_table, sensitivity_table, sweep_table

PAIRS = [(1.0, 3), (2.0, 3), (0.5, 5)]
KEYS = ["dataset", "architecture", "noise", "seed", "training_images"]
NUMBERS = [column for column in COLUMNS if column not in ("layer", "kind")]


@pytest.fixture(params=["vgg11_bn", "lenet"])
def files(request, tmp_path):
    """A network whose trained weights, last and best, are other random ones, and probes."""
    torch.manual_seed(0)
    states = {}
    calibration = torch.randn(20, 1, 16, 16)
    for state in ("init", "last", "best"):
        model = relstab.build_model(request.param, (1, 16, 16), 10, 0.1)
        relstab.estimate_batch_statistics(model, calibration)
        states[state] = copy_state(model)
    row = {"epoch": 1, "learning_rate": 0.1, "train_loss": 1.0, "test_error": 0.5}
    key = NetworkKey("some", request.param, 0.0, 0)
    network = TrainedNetwork(key, (1, 16, 16), 10, Training(width=0.1), 0.9, 10, "float32", states, [row])
    save_network(tmp_path / "network.h5", network)
    write_probes(tmp_path / "probes.h5", relstab.make_probes(torch.randn(9, 1, 16, 16), 0.5), "some", {}, 0)
    return tmp_path / "network.h5", tmp_path / "probes.h5"


def assert_same_numbers(rows, expected):
    np.testing.assert_allclose(rows[NUMBERS].to_numpy(float), expected[NUMBERS].to_numpy(float), rtol=1e-5, atol=1e-6)


def test_states_differ_by_the_statistics_of_batch_norm(files, tmp_path):
    network, probes = files
    measure_network(tmp_path / "s.h5", network, probes, device="cpu")
    table = read_sensitivity(tmp_path / "s.h5")
    assert list(table["state"].unique()) == ["init", "init_frozen", "trained"]
    images = read_probes(probes)
    for state, saved, batch_norm in (
        ("init", "init", "per_version"), ("init_frozen", "init", "running"), ("trained", "last", "running")
    ):  # fmt: skip
        model = load_network(network, saved)
        assert_same_numbers(table[table["state"] == state], relstab.measure_sensitivity(model, images, batch_norm=batch_norm))
    r = table[table["layer"] == "output"].set_index("state")["R"]
    assert (r["init"] == r["init_frozen"]) == ("lenet" in str(network.parent) or "lenet" in table["architecture"].iloc[0])
    measure_over_training(tmp_path / "t.h5", network, probes, device="cpu")
    with h5py.File(tmp_path / "t.h5") as epochs, h5py.File(tmp_path / "s.h5") as states:
        for epoch, state in (("0", "init"), ("1", "trained")):
            np.testing.assert_array_equal(epochs[epoch]["R"][:], states[state]["R"][:])


def test_best_weights_are_those_that_are_measured_where_the_config_says_so(files, tmp_path):
    """The reference measures the network of best test error; last and best weights have other D, G, R and filters."""
    network, probes = files
    measured = {}
    for weights in ("last", "best"):
        measure_network(tmp_path / f"{weights}.h5", network, probes, weights, device="cpu")
        measure_shuffled(tmp_path / f"{weights}_shuffled.h5", network, probes, 1, weights=weights, device="cpu")
        analyse_filters(tmp_path / f"{weights}_spectra.h5", network, weights)
        rows = read_sensitivity(tmp_path / f"{weights}.h5").query("state == 'trained'")
        assert_same_numbers(rows, relstab.measure_sensitivity(load_network(network, weights), read_probes(probes)))
        shuffled = read_sensitivity(tmp_path / f"{weights}_shuffled.h5").query("state == 'trained'")
        spectra = read_spectra(tmp_path / f"{weights}_spectra.h5").query("state == 'trained'")
        measured[weights] = [rows["R"].iloc[-1], shuffled["R"].iloc[-1], spectra["gamma"].iloc[0]]
    assert (np.abs(np.log(np.divide(*measured.values()))) > 1e-3).all()


def test_shuffles_have_stale_and_recalibrated_statistics(files, tmp_path):
    network, probes = files
    measure_shuffled(tmp_path / "s.h5", network, probes, 2, device="cpu")
    table = read_sensitivity(tmp_path / "s.h5").set_index(["state", "shuffle", "statistics"])
    assert list(table.index.unique()) == [
        (state, number, kind) for state in ("init", "trained") for number in "01" for kind in ("stale", "recalibrated")
    ]
    pd.testing.assert_frame_equal(
        table.loc[("init", "0", "stale")].reset_index(drop=True), table.loc[("init", "0", "recalibrated")].reset_index(drop=True)
    )
    stale, recalibrated = (table.loc[("trained", "1", kind)] for kind in ("stale", "recalibrated"))
    if "BatchNorm2d" not in set(table["kind"]):
        assert list(stale["R"]) == list(recalibrated["R"])
        return
    # After recalibration, the means over clean probes of the first batch norm are those of its own input: 0 before its shift.
    first = stale["kind"].tolist().index("BatchNorm2d")
    np.testing.assert_allclose(stale["R"].iloc[:first], recalibrated["R"].iloc[:first], rtol=1e-6)
    assert stale["R"].iloc[-1] != pytest.approx(recalibrated["R"].iloc[-1], rel=1e-3)


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
