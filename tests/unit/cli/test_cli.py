"""The command: what it writes is what the library measures, and errors are one sentence."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import relstab
from relstab.cli import main
from relstab.cli.measure import read_images
from relstab.cli.models import load_model
from relstab.files.hdf5 import write_hdf5

MODEL = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 5))

class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        return {"logits": self.layers(x), "pixels": x}

def parts():
    return Parts()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with eight images and a file of a network."""
    rng = np.random.default_rng(0)
    (tmp_path / "images/deep").mkdir(parents=True)
    for place in range(8):
        image = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((40, 36), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"images/{'deep/' if place % 2 else ''}{place}.png")
    (tmp_path / "mine.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, status=0):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == status, result.output
    return result.output


def test_measure_writes_what_the_library_measures(folder):
    output = run("measure", "mine.py:network", "--images", "images", "--size", 32, "--layers", "all", "--output", "out/mine")
    assert "network: 8 images of 32 x 32 pixels" in output
    assert (folder / "out/mine.png").stat().st_size > 5000
    table = pd.read_csv(folder / "out/mine.csv")
    images = read_images(folder / "images", 8, 3, 32, 0)
    images = (images - images.mean((0, 2, 3))[:, None, None]) / images.std((0, 2, 3))[:, None, None]
    probes = relstab.make_probes(images, generator=torch.Generator().manual_seed(0))
    expected = relstab.measure_sensitivity(load_model("mine.py:network").model, probes)
    assert list(table["layer"]) == list(expected["layer"])
    np.testing.assert_allclose(table["D"], expected["D"], rtol=1e-6)
    assert (table["network"] == "network").all()


@pytest.mark.usefixtures("folder")
def test_compare_shuffles_and_perturbs():
    options = ("--images", "images", "--size", 32)
    run("compare", "mine.py:network", "torchvision:squeezenet1_1", *options, "--shuffle", "--output", "two")
    table = pd.read_csv("two.csv")
    assert set(table["network"]) == {"network", "squeezenet1_1"}
    assert set(table["shuffle"]) == {"none", "0"}
    output = run("measure", "mine.py:network", "--images", "images", "--size", 32, "--perturbation", "blur", "--output", "s")
    table = pd.read_csv("s.csv")
    assert set(table["perturbation"]) == {"blur"}
    assert "wrote s.png" in output


@pytest.mark.usefixtures("folder")
def test_a_part_of_the_output_is_measured():
    options = ("--images", "images", "--size", 32, "--layers", "all")
    run("measure", "mine.py:network", *options, "--output", "alone")
    run("measure", "mine.py:parts", *options, "--part", "logits", "--output", "part")
    alone, part = (pd.read_csv(f"{name}.csv").iloc[-1] for name in ("alone", "part"))
    np.testing.assert_allclose(part[["D", "G", "R"]].astype(float), alone[["D", "G", "R"]].astype(float), rtol=1e-6)
    assert "expected output to be one of logits, pixels" in run("measure", "mine.py:parts", *options, "--part", "logit", status=1)


def test_weights_of_a_file_are_taken(folder):
    torch.manual_seed(5)
    model = load_model("mine.py:network", seed=1).model
    torch.save(model.state_dict(), "weights.pt")
    loaded = load_model("mine.py:network", weights=folder / "weights.pt", seed=2).model
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", "perhaps torchvision:resnet18"),
        ("torchvision:resnet81", "got 'resnet81'"),
        ("timm:resnet81x", "expected"),
        ("mine.py:net", "has no function 'net'"),
        ("none.h5", "none.h5 does not exist"),
    ],
)
def test_an_unknown_network_is_one_sentence(folder, model, message):
    assert folder.exists()
    output = run("measure", model, "--images", "images", status=1)
    assert message in output
    assert "Traceback" not in output


def test_files_that_are_no_images_are_left_out_with_a_warning(folder):
    (folder / "images/notes.png").write_text("none")
    with pytest.warns(UserWarning, match=r"1 files are left out, the first: .*notes\.png is not an image"):
        assert len(read_images(folder / "images", 20, 3, 32, 0)) == 8


def test_a_folder_without_images_is_one_sentence(folder):
    (folder / "empty").mkdir()
    output = run("measure", "mine.py:network", "--images", "empty", status=1)
    assert "expected at least 2 images in empty, got 0" in output


def test_show_says_what_a_network_of_a_run_is(folder):
    network = relstab.build_model("lenet", (1, 28, 28), 10, 0.2)
    path = folder / "net.h5"
    attributes = {"architecture": "lenet", "git_commit": "abc", "seed": 3, "parameters": '{"epochs": 7}'}
    with write_hdf5(path, attributes, "network") as file:
        for state in ("init", "last"):
            for name, value in network.state_dict().items():
                file[f"{state}/{name}"] = value.numpy()
    output = run("show", path)
    for line in (
        "network: its weights",
        "  architecture: lenet",
        "  git_commit: abc",
        "  seed: 3",
        "  epochs: 7",
        "  last/ (10)",
    ):
        assert line in output
    (folder / "text.h5").write_text("no")
    assert "Traceback" not in run("show", folder / "text.h5", status=1)


def test_show_goes_by_the_kind_that_a_file_has_and_not_by_its_groups(folder):
    for kind, words in (
        ("filter spectra", "filter spectra gamma"),
        ("sensitivities", "sensitivities D, G and R"),
        ("ensemble", "ensemble"),
    ):
        with write_hdf5(folder / "same.h5", {}, kind) as file:
            file["init/D"] = file["trained/D"] = [1.0]
        assert f"same.h5: {words}" in run("show", folder / "same.h5")


def test_doctor_names_what_is_missing_and_what_mends_it(folder, monkeypatch):
    assert folder.exists()
    output = run("doctor")
    assert "Python: " in output
    assert "missing" not in output
    from relstab.cli import doctor

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: doctor.shutil._ntuple_diskusage(1, 1, 2**20))
    assert "make room" in run("doctor")
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 1))
    assert "install Python 3.11 or later" in run("doctor", status=1)


def test_help_is_a_page_and_loads_no_torch():
    code = """
import sys
from relstab.cli import main
for command in [], ["measure"], ["compare"], ["show"], ["doctor"]:
    main([*command, "--help"], standalone_mode=False)
    assert "torch" not in sys.modules, command
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Usage:") == 5
    assert max(map(len, result.stdout.splitlines())) <= 100


@pytest.mark.slow
def test_the_library_measures_where_there_are_no_file_locks_of_unix():
    """As on Windows: fcntl cannot be imported."""
    code = """
import sys
sys.modules["fcntl"] = None
import torch, relstab
from relstab.cli import main
model = relstab.build_model("lenet", (1, 28, 28), 10)
print(len(relstab.measure_sensitivity(model, relstab.make_probes(torch.randn(4, 1, 28, 28)))))
for name in relstab.__all__:
    getattr(relstab, name)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
