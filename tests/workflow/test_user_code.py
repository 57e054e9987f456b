"""A data set from a Python function and an architecture from a Python file, without a change to relstab."""

import json
import os
import shutil
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import relstab
from relstab.architectures import ARCHITECTURES, architecture_source, build_model, own_architectures
from relstab.architectures.user_code import load_function
from relstab.config import ConfigError, Training, load_config
from relstab.figures.style import label_of, mark
from relstab.files.dataset import Dataset, read_dataset
from relstab.stages.datasets import prepare_dataset
from relstab.stages.networks import train_and_save

from helpers import ROOT, run

OWN = ROOT / "configs" / "own"
BUILDER = f"{OWN}/two_layers.py:build"
FIGURE = "results/own/figures/fig01_relative_sensitivity"


@pytest.fixture
def _known():
    own_architectures({"two_layers": {"builder": BUILDER, "label": "two layers"}})


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A folder with the example's files in which its config ran to its tables and one figure."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(OWN, folder / "configs" / "own")
    # In a third of the time.
    config = yaml.safe_load((ROOT / "configs/own.yaml").read_text())
    config["seeds"] = 1
    config["training"]["epochs"] = config["recipes"]["lenet"]["epochs"] = 4
    (folder / "own.yaml").write_text(yaml.safe_dump(config))
    run(folder, "all_tables", f"{FIGURE}.png", "--cores", "2", config=folder / "own.yaml")
    return folder


def test_the_example_runs_from_images_to_figures(example):
    results = example / "results/own"
    networks = pd.read_csv(results / "tables/networks.csv")
    assert set(zip(networks["dataset"], networks["architecture"], strict=True)) == {
        ("gratings", "two_layers"),
        ("gratings", "lenet"),
    }
    # Four classes: guessing is wrong in three of four.
    assert networks["test_error"].max() < 0.5
    sensitivity = pd.read_csv(results / "tables/sensitivity.csv", dtype={"shuffle": str})
    own = sensitivity.query("architecture == 'two_layers' and state == 'trained' and shuffle == 'none'")
    assert own["layer"].tolist() == ["input", *map(str, range(8)), "output"]
    assert set(sensitivity.query("architecture == 'two_layers'")["shuffle"]) == {"none", "0", "1"}
    assert "two_layers" in set(pd.read_csv(results / "tables/spectrum.csv")["architecture"])
    assert (example / f"{FIGURE}.png").stat().st_size > 10_000
    own_architectures({"two_layers": {"builder": BUILDER}})
    network = relstab.load_network(results / "networks/gratings/two_layers/noise0/seed0.h5")
    assert network[0].weight.shape == (16, 1, 5, 5)  # width: 0.5


def test_another_text_makes_again_what_follows_from_it_and_nothing_else(planners, example, tmp_path):
    def planned(folder):
        return {name: len(files) for name, files in planners.planned(folder, folder / "own.yaml").items()}

    not_drawn = planned(example)
    assert not_drawn.keys().isdisjoint({"fig01", "prepare_dataset", "train", "sensitivity", "table_networks"})
    folder = tmp_path / "copy"
    shutil.copytree(example, folder, symlinks=True)
    for file in (folder / "configs/own").iterdir():
        file.touch()
    assert planned(folder) == not_drawn
    builder = folder / "configs/own/two_layers.py"
    before = builder.stat()
    builder.write_text(builder.read_text() + "\n# Another text.\n")
    os.utime(builder, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))  # older than what was made, as rsync leaves it
    jobs = planned(folder)
    assert jobs["train"] == 1
    assert jobs["sensitivity"] == jobs["shuffled_sensitivity"] == jobs["spectra"] == 1
    assert "fig01" in jobs
    assert "prepare_dataset" not in jobs
    maker = folder / "configs/own/gratings.py"
    maker.write_text(maker.read_text() + "\n# Another text.\n")
    jobs = planned(folder)
    assert jobs["prepare_dataset"] == 1
    assert jobs["train"] == 2


def test_a_job_says_what_is_wrong_with_the_code(example, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(example, folder, symlinks=True)
    builder = folder / "configs/own/two_layers.py"
    builder.write_text(builder.read_text().replace("nn.Linear(channels, classes)", "nn.Linear(channels, classes / 2)"))
    (folder / "configs/own/gratings.py").write_text("def gratings(root, seed):\n    return {'train': 1}\n")
    done = run(folder, "all", "--cores", "1", config=folder / "own.yaml", check=False)
    assert done.returncode != 0
    assert (
        "relstab: prepare_dataset (dataset gratings): data set 'gratings': expected its function to return {'train': (images, "
        "labels), 'test': (images, labels)}, got ['train']" in done.stderr
    )


@pytest.mark.usefixtures("_known")
def test_options_reach_the_builder_or_are_refused(tmp_path):
    model = build_model("two_layers", (3, 16, 16), 5, width=2)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert model[0].out_channels == 64
    with pytest.raises(ValueError, match=r"with an argument activation, got .*two_layers.py:build without it"):
        build_model("two_layers", (3, 16, 16), 5, activation="tanh")
    file = tmp_path / "net.py"
    file.write_text("import torch\ndef build(shape, classes, **options):\n    return options\n")
    own_architectures({"net": {"builder": f"{file}:build"}})
    with pytest.raises(ValueError, match=r"expected the builder of net, .*, to return a torch.nn.Module, got a dict"):
        build_model("net", (3, 16, 16), 5, pooling="average")


@pytest.mark.usefixtures("_known")
def test_a_user_architecture_has_a_label_and_a_mark():
    assert label_of("two_layers") == "two layers"
    assert mark("two_layers") != mark("lenet")


def test_they_are_known_beside_the_others_and_no_other_is_replaced():
    own_architectures({"a": {"builder": BUILDER}, "b": {"builder": BUILDER, "convolutional": False, "skips": True}})
    assert (ARCHITECTURES["a"].convolutional, ARCHITECTURES["a"].skips) == (True, False)
    assert (ARCHITECTURES["b"].convolutional, ARCHITECTURES["b"].skips) == (False, True)
    own_architectures({"a": {"builder": BUILDER, "label": "A"}})
    assert label_of("a") == "A"
    assert "b" in ARCHITECTURES
    for name in ("lenet", "two layers", ""):
        with pytest.raises(ValueError, match=f"for your architecture, not one of relstab's, got {name!r}"):
            own_architectures({name: {"builder": BUILDER}})
    assert ARCHITECTURES["lenet"].label == "LeNet"


def test_a_checkpoint_of_another_text_is_not_used(tmp_path):
    """A training that was killed goes on, but not as another network."""
    file = tmp_path / "net.py"
    file.write_text((OWN / "two_layers.py").read_text())
    own_architectures({"net": {"builder": f"{file}:build"}})
    first = architecture_source("net")
    text = file.read_text()
    file.write_text(text + "\n")
    assert architecture_source("net") != first
    assert architecture_source("lenet") == {}
    rng = np.random.default_rng(0)
    pixels = {part: rng.integers(0, 256, (40, 1, 12, 12), dtype=np.uint8) for part in ("train", "test")}
    labels = {part: np.arange(40) % 2 for part in pixels}
    data = Dataset("own", pixels, labels, np.full(1, 0.5, np.float32), np.full(1, 0.3, np.float32))
    test = torch.zeros(40, 1, 12, 12), torch.arange(40) % 2
    train_and_save(tmp_path / "a.h5", "net", data, test, Training(epochs=1, crop_padding=0), 0, 0, device="cpu")
    assert relstab.load_network(tmp_path / "a.h5")[0].weight.shape == (32, 1, 5, 5)
    file.write_text(text)
    with pytest.raises(
        ValueError, match=r"the file of the builder of net, .*net.py:build, has changed since the network was trained"
    ):
        relstab.load_network(tmp_path / "a.h5")
    del ARCHITECTURES["net"]
    with pytest.raises(ValueError, match=r"expected an architecture among .*, got 'net'"):
        relstab.load_network(tmp_path / "a.h5")


def maker(tmp_path, body):
    file = tmp_path / "maker.py"
    file.write_text(f"import numpy as np\ndef make(root, seed):\n    {body}\n")
    return f"{file}:make"


GOOD = "images = np.zeros((4, 1, 3, 3), np.uint8); images[0] = 9; labels = np.arange(4) % 2"


def test_images_come_in_random_order_and_the_file_says_from_which_code(tmp_path):
    body = (
        "images = np.repeat(np.arange(100, dtype=np.uint8), 9).reshape(100, 1, 3, 3);"
        "return {part: (images, np.arange(100) // 50) for part in ('train', 'test')}"
    )
    prepare_dataset(tmp_path / "own.h5", "own", function=maker(tmp_path, body))
    data = read_dataset(tmp_path / "own.h5")
    for part in ("train", "test"):
        values = data.images[part][:, 0, 0, 0]
        assert sorted(values.tolist()) == list(range(100))
        assert (data.labels[part] == values // 50).all()
        assert 5 < data.labels[part][:40].sum() < 35
    with h5py.File(tmp_path / "own.h5") as file:
        parameters = json.loads(file.attrs["parameters"])
    assert len(parameters["source"]) == 64


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 5", "got int"),
        (
            f"{GOOD}; return {{'train': (images.astype(float), labels), 'test': (images, labels)}}",
            "train images .*, got float64",
        ),
        (
            f"{GOOD}; return {{'train': (images, labels), 'test': (images[:, 0], labels)}}",
            r"test images .*, got uint8 of shape \(4, 3, 3\)",
        ),
        (f"{GOOD}; return {{'train': (images, labels[:3]), 'test': (images, labels)}}", "one train label, a whole number from 0"),
        (f"{GOOD}; return {{'train': images, 'test': images}}", "a pair .* for 'train', got ndarray"),
        (f"{GOOD}; return {{'train': (images, 10**11 * labels), 'test': (images, labels)}}", "numbered from 0 without a gap"),
        (f"{GOOD}; return {{'train': (images, 0 * labels), 'test': (images, 0 * labels)}}", "two classes or more"),
        (f"{GOOD}; return {{'train': (images, labels - 1), 'test': (images, labels)}}", "one train label, a whole number from 0"),
        (f"{GOOD}; return {{'train': (images, labels), 'test': (images, labels + 1)}}", "got label 2 in the test part only"),
        (f"{GOOD}; return {{'train': (images, labels), 'test': (images[:, :, :2, :2], labels)}}", "images of one shape"),
        (
            f"{GOOD}; images[:] = 7; return {{'train': (images, labels), 'test': (images, labels)}}",
            "training pixels of more than one value in each channel",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, body, message):
    with pytest.raises(ValueError, match=message):
        prepare_dataset(tmp_path / "own.h5", "own", function=maker(tmp_path, body))
    assert not (tmp_path / "own.h5").exists()


def test_references_that_lead_nowhere(tmp_path):
    (tmp_path / "code.py").write_text("import math\ndef build(): pass\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for reference, message in (
        ("code.py", r"expected path/to/file.py:function, got 'code.py'"),
        ("code.py:a b", "expected path/to/file.py:function, got"),
        (f"{tmp_path}/nothing.py:build", r"expected a Python file, got .*nothing.py, which does not exist"),
        (f"{tmp_path}/code.py:biuld", r"has no function 'biuld' \(nearest: 'build'\)"),
        (f"{tmp_path}/broken.py:build", r"broken.py cannot be imported \(ZeroDivisionError: division by zero\)"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_function(reference)


def test_files_as_people_write_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_it.py").write_text("VALUE = 7\n")
    (tmp_path / "later.py").write_text("VALUE = 5\n")
    (tmp_path / "code.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside_it import VALUE\n"
        "@dataclass\nclass Sizes:\n    n: int = 1\n"
        "def build():\n    import later\n    return VALUE + later.VALUE + Sizes().n\n"
    )
    assert load_function(f"{tmp_path}/code.py:build")() == 13
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit('no')\n")
    with pytest.raises(ValueError, match=r"leaves.py cannot be imported \(SystemExit: no\)"):
        load_function(f"{tmp_path}/leaves.py:build")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"own_architectures": {"mine": {"builder": "nothing.py:build"}}},
            "got nothing.py, which does not exist .*own_architectures.mine.builder",
        ),
        (
            {"own_architectures": {"mine": {"builder": BUILDER, "bilder": BUILDER}}},
            r"expected one of the keys builder, .*nearest: 'builder'; .*own_architectures.mine.bilder",
        ),
        (
            {"own_architectures": {"mine": {"builder": BUILDER + "er"}}},
            "two_layers.py has no function 'builder' .nearest: 'build'",
        ),
        ({"own_architectures": {"mine": {"builder": "{x}.py:build"}}}, "a path without braces"),
        ({"data": {"mean": [125.3]}}, r"expected a number of at most 1, got 125.3 .*data.mean\[0\]"),
        ({"data": {"std": [float("nan")]}}, r"data.std\[0\]"),
        ({"data": {"mean": [0.5], "std": [0.5, 0.5]}}, "expected as many numbers as in data.mean .1., got 2"),
        ({"own_architectures": {"lenet": {"builder": BUILDER}}}, "expected a name of letters, digits and _ .* got 'lenet'"),
        ({"architectures": ["mine"]}, "expected one of fc2, .*, got 'mine'"),
        ({"data": {"name": "mine"}}, r"expected one of mnist5k, .*, imagefolder, got 'mine' .*data.name"),
        (
            {"data": {"name": "cifar10", "function": BUILDER}},
            "expected a name beside data.function .*, got 'cifar10' .*data.name",
        ),
        ({"data": {"name": "mine", "function": "x.py"}}, "path/to/file.py:function.*data.function"),
        ({"data": {"name": "imagefolder"}}, "expected the folder that holds train/ and test/ .* got null .*data.root"),
        (
            {"data": {"name": "imagefolder", "root": "x", "imagefolder": {"fit": "crop"}}},
            "expected a number of pixels .*data.imagefolder.size",
        ),
        (
            {"data": {"name": "imagefolder", "root": "x", "imagefolder": {"size": 8, "resize_to": 9}}},
            "resize_to: expected at least size = 8, with fit 'crop', got 9 .*data.imagefolder",
        ),
        ({"data": {"std": [0.5, 0]}}, r"expected a number above 0, got 0 .*data.std\[1\]"),
    ],
)
def test_wrong_keys_are_one_sentence(change, sentence):
    with pytest.raises(ConfigError, match=sentence) as error:
        load_config({"architectures": ["lenet"], **change})
    assert len(str(error.value).splitlines()) == 1, error.value
    assert str(error.value).count("data: data") == 0


def test_the_example_of_the_docs_is_the_one_that_is_tested():
    page = (ROOT / "docs/training.md").read_text()
    for path in ("configs/own.yaml", "configs/own/gratings.py", "configs/own/two_layers.py"):
        assert path in page
