"""What the stages of sensitivity measure: states, shuffles, and the statistics of batch norm of each."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import relstab
from relstab.config.training import Training
from relstab.files.network import NetworkKey, TrainedNetwork, copy_state, load_network, save_network
from relstab.files.probes import read_probes, write_probes
from relstab.files.sensitivity import read_sensitivity
from relstab.sensitivity_table import COLUMNS
from relstab.stages.sensitivity import measure_network, measure_over_training, measure_shuffled

NUMBERS = [column for column in COLUMNS if column not in ("layer", "kind")]


@pytest.fixture(params=["vgg11_bn", "lenet"])
def files(request, tmp_path):
    """A network whose trained weights are other random ones, and probes."""
    torch.manual_seed(0)
    states = {}
    calibration = torch.randn(20, 1, 16, 16)
    for state in ("init", "last"):
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
