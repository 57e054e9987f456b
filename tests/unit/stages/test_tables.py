"""Tables that are collected from files of the other stages."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from relstab.files.hdf5 import write_hdf5, write_table
from relstab.sensitivity_table import COLUMNS
from relstab.stages.tables import (
    correlation_table,
    history_table,
    make_table,
    network_table,
    over_training_table,
    sensitivity_table,
    sweep_table,
)

KEY = {"dataset": "some", "architecture": "lenet", "noise": 0.0, "seed": 3}


def network_file(path, architecture="lenet", errors=(0.5, 0.2, 0.3), **attributes):
    key = {**KEY, "architecture": architecture, "chance_error": 0.9, "test_images": 100, **attributes}
    with write_hdf5(path, key, "network") as file:
        history = {"epoch": [1, 2, 3], "learning_rate": [0.1] * 3, "train_loss": [2.0, 1.0, 0.5], "test_error": errors}
        for column, values in history.items():
            file[f"history/{column}"] = values
    return path


def sensitivity_file(path, groups, scores=None, **attributes):
    """Two layers in each group, whose D is 1 and 1 + the number that the group is named after."""
    with write_hdf5(path, {**KEY, **attributes}, "sensitivities") as file:
        for name in groups:
            number = int(name.split("/")[-1]) if name[-1].isdigit() else 0
            texts, numbers = ["input", "output"], [1.0, 1.0 + number]
            for column in COLUMNS:
                file[f"{name}/{column}"] = texts if column in ("layer", "kind") else [0, 1] if column == "index" else numbers
            file[name].attrs.update((scores or {}).get(name, {}))
    return path


def test_networks_are_judged_by_their_last_or_best_epoch(tmp_path):
    path = network_file(tmp_path / "a.h5")
    bad = network_file(tmp_path / "b.h5", "vgg11", errors=(0.9, 0.9, 0.85))
    last, best = network_table([path, bad]), network_table([path, bad], weights="best")
    assert last["test_error"].tolist() == [0.3, 0.85]
    assert best["test_error"].tolist() == [0.2, 0.85]
    assert best["train_loss"].tolist() == [1.0, 0.5]
    assert last["learned"].tolist() == [True, False]  # 0.85 is above 0.9 * 0.9
    assert network_table([bad], learned_below=1.0)["learned"].tolist() == [True]
    assert list(last.columns) == [*KEY, "test_error", "train_loss", "epochs", "learned", "test_images"]


def test_a_network_that_is_there_twice_is_refused(tmp_path):
    path, other = network_file(tmp_path / "a.h5"), network_file(tmp_path / "b.h5")
    with pytest.raises(ValueError, match=r"got two rows of dataset some, architecture lenet, noise 0\.0, seed 3: delete one"):
        network_table([path, other])
    with pytest.raises(ValueError, match=r"got two rows of .* seed 3, epoch 1: delete one"):
        history_table([path, other])
    sweep = sensitivity_file(tmp_path / "sweep.h5", ["trained/0"], {"trained/0": {"displacement": 1.0, "cutoff": 3}})
    assert len(sweep_table([sweep])) == 2
    with pytest.raises(ValueError, match=r"got two rows of .* seed 3, state trained, displacement 1\.0, cutoff 3, layer input"):
        sweep_table([sweep, sweep])
    plain = sensitivity_file(tmp_path / "plain.h5", ["init", "trained"])
    with pytest.raises(
        ValueError,
        match=r"got two rows of dataset some, .* state init, shuffle none, statistics per_version, layer input, index 0",
    ):
        sensitivity_table([plain, plain], [])


def test_files_that_were_made_with_different_parameters_are_refused_with_both(tmp_path):
    def made(name, number, **values):
        groups = ["init", "trained"]
        return sensitivity_file(tmp_path / name, groups, seed=number, **{key: json.dumps(value) for key, value in values.items()})

    one = made("1.h5", 1, parameters={"weights": "last"}, probes_parameters={"displacement": 1.0})
    sensitivity_table([one, made("2.h5", 2, parameters={"weights": "last"}, probes_parameters={"displacement": 1.0})], [])
    best = made("3.h5", 3, parameters={"weights": "best"}, probes_parameters={"displacement": 1.0})
    with pytest.raises(ValueError, match=r"got weights last in .*1\.h5 and best in .*3\.h5: delete the one"):
        sensitivity_table([one, best], [])
    with pytest.raises(ValueError, match=r"got displacement 1\.0 in .*1\.h5 and 2\.0 in .*4\.h5: delete the one"):
        sensitivity_table([one, made("4.h5", 4, parameters={"weights": "last"}, probes_parameters={"displacement": 2.0})], [])
    networks = [
        network_file(tmp_path / f"n{seed}.h5", parameters=json.dumps({"config_seed": seed}), seed=seed) for seed in (0, 1)
    ]
    with pytest.raises(ValueError, match=r"got config_seed 0 in .*n0\.h5 and 1 in .*n1\.h5"):
        network_table(networks)


def test_a_table_of_two_versions_of_the_code_names_them(tmp_path):
    files = [network_file(tmp_path / f"{seed}.h5", seed=seed, code=code) for seed, code in enumerate(("new", "old", "new"))]
    with warnings.catch_warnings(action="error"):
        table = make_table("network_table", {"networks": [files[0], files[2]]}, {})
    assert "code" not in table
    with pytest.warns(UserWarning, match="2 versions of the code made what this table holds, new and old: see its column code"):
        table = make_table("network_table", {"networks": files}, {})
    assert table["code"].tolist() == ["new", "old", "new"]
    # A table that is made from it names them, too.
    write_table(tmp_path / "networks.csv", table)
    outputs = [sensitivity_file(tmp_path / f"s{seed}.h5", ["init", "trained"], seed=seed) for seed in range(3)]
    write_table(tmp_path / "sensitivity.csv", sensitivity_table(outputs, []))
    tables = {name: tmp_path / f"{name}.csv" for name in ("networks", "sensitivity")}
    with pytest.warns(UserWarning, match="new and old"):
        correlation = make_table("correlation_table", tables, {})
    assert set(correlation["code"]) == {"new and old"}


def test_tables_of_different_networks_are_refused(tmp_path):
    networks = network_table([network_file(tmp_path / f"{seed}.h5", seed=seed) for seed in (0, 1)])
    sensitivity = sensitivity_table(
        [sensitivity_file(tmp_path / f"s{seed}.h5", ["init", "trained"], seed=seed) for seed in (0, 1)], []
    )
    correlation_table(networks, sensitivity)
    with pytest.raises(ValueError, match=r"got dataset some, architecture lenet, noise 0\.0, seed 1 in networks and not in sens"):
        correlation_table(networks, sensitivity[sensitivity["seed"] == 0])
    with pytest.raises(ValueError, match=r"seed 0 in sensitivity and not in networks: delete both tables"):
        correlation_table(networks[networks["seed"] == 1], sensitivity)
    with pytest.raises(ValueError, match="expected each network once"):
        correlation_table(pd.concat([networks, networks[:1]]), sensitivity)


def test_histories_have_one_row_per_network_and_epoch(tmp_path):
    files = [network_file(tmp_path / "a.h5"), network_file(tmp_path / "b.h5", "vgg11", errors=(0.9, 0.8, 0.7))]
    table = history_table(files)
    assert list(table.columns) == [*KEY, "epoch", "learning_rate", "train_loss", "test_error"]
    assert table["epoch"].tolist() == [1, 2, 3] * 2
    assert table[table["architecture"] == "vgg11"]["test_error"].tolist() == [0.9, 0.8, 0.7]


def test_states_and_shuffles_become_one_table_in_their_order(tmp_path):
    plain = sensitivity_file(tmp_path / "plain.h5", ["init", "init_frozen", "trained"])
    kinds = [(s, i, kind) for s in ("init", "trained") for i in range(11) for kind in ("stale", "recalibrated")]
    shuffled = sensitivity_file(tmp_path / "shuffled.h5", ["/".join(map(str, kind)) for kind in kinds])
    table = sensitivity_table([plain], [shuffled])
    keys = table[["state", "shuffle", "statistics"]].drop_duplicates().itertuples(index=False, name=None)
    unshuffled = [("init", "none", "per_version"), ("init_frozen", "none", "running"), ("trained", "none", "running")]
    assert list(keys) == unshuffled + [(state, str(number), kind) for state, number, kind in kinds]
    assert len(table) == 2 * (3 + 2 * 11 * 2)
    assert table.columns.tolist() == [*KEY, "state", "shuffle", "statistics", *COLUMNS]


def test_epochs_become_one_table_in_their_order(tmp_path):
    scores = {str(epoch): {"test_error": 1 / epoch, "train_loss": 2 / epoch} for epoch in (2, 10)}
    table = over_training_table([sensitivity_file(tmp_path / "s.h5", ["0", "2", "10"], scores)])
    assert table["epoch"].tolist() == [0, 0, 2, 2, 10, 10]
    outputs = table.query("layer == 'output'")
    assert outputs["D"].tolist() == [1.0, 3.0, 11.0]
    np.testing.assert_array_equal(outputs["test_error"], [np.nan, 0.5, 0.1])
    assert outputs["train_loss"].iloc[1] == pytest.approx(1.0)
    assert set(table["seed"]) == {3}
