"""Tables that are collected from files of the other stages."""

import h5py
import numpy as np
import pytest

from relstab.files.sensitivity import COLUMNS
from relstab.sensitivity import COLUMNS as MEASURED
from relstab.stages.tables import history_table, network_table, over_training_table, sensitivity_table

KEY = {"dataset": "some", "architecture": "lenet", "noise": 0.0, "seed": 3}


def network_file(path, architecture="lenet", errors=(0.5, 0.2, 0.3)):
    with h5py.File(path, "w") as file:
        file.attrs.update({**KEY, "architecture": architecture, "chance_error": 0.9, "test_images": 100})
        history = {"epoch": [1, 2, 3], "learning_rate": [0.1] * 3, "train_loss": [2.0, 1.0, 0.5], "test_error": errors}
        for column, values in history.items():
            file[f"history/{column}"] = values
    return path


def sensitivity_file(path, groups, scores=None):
    """Two layers in each group, whose D is 1 and 1 + the number that the group is named after."""
    with h5py.File(path, "w") as file:
        file.attrs.update(KEY)
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


def test_histories_have_one_row_per_network_and_epoch(tmp_path):
    files = [network_file(tmp_path / "a.h5"), network_file(tmp_path / "b.h5", "vgg11", errors=(0.9, 0.8, 0.7))]
    table = history_table(files)
    assert list(table.columns) == [*KEY, "epoch", "learning_rate", "train_loss", "test_error"]
    assert table["epoch"].tolist() == [1, 2, 3] * 2
    assert table[table["architecture"] == "vgg11"]["test_error"].tolist() == [0.9, 0.8, 0.7]


def test_states_and_shuffles_become_one_table_in_their_order(tmp_path):
    plain = sensitivity_file(tmp_path / "plain.h5", ["init", "trained"])
    shuffled = sensitivity_file(tmp_path / "shuffled.h5", [f"{s}/{i}" for s in ("init", "trained") for i in range(11)])
    table = sensitivity_table([plain], [shuffled])
    assert table.groupby("state")["shuffle"].unique()["trained"].tolist() == ["none", *map(str, range(11))]
    assert len(table) == 2 * 2 * 12
    assert table.columns.tolist() == [*KEY, "state", "shuffle", *COLUMNS]
    assert COLUMNS == MEASURED


def test_epochs_become_one_table_in_their_order(tmp_path):
    scores = {str(epoch): {"test_error": 1 / epoch, "train_loss": 2 / epoch} for epoch in (2, 10)}
    table = over_training_table([sensitivity_file(tmp_path / "s.h5", ["0", "2", "10"], scores)])
    assert table["epoch"].tolist() == [0, 0, 2, 2, 10, 10]
    outputs = table.query("layer == 'output'")
    assert outputs["D"].tolist() == [1.0, 3.0, 11.0]
    np.testing.assert_array_equal(outputs["test_error"], [np.nan, 0.5, 0.1])
    assert outputs["train_loss"].iloc[1] == pytest.approx(1.0)
    assert set(table["seed"]) == {3}
