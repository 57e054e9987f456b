"""What is refused before the work or at its end, since its numbers would mean nothing."""

import inspect
import os
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from relstab.architectures.torchvision_networks import read_weights
from relstab.config import Training
from relstab.data.image_folder import ImageProblem, list_folder, read_image
from relstab.files.dataset import read_dataset
from relstab.files.network import NetworkKey, TrainedNetwork, save_network
from relstab.stages.datasets import prepare_dataset
from relstab.stages.sensitivity import _check_function

from helpers import ROOT


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_data_end_early_is_refused(tmp_path, progressive):
    path = tmp_path / "a.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(pixels).save(path, progressive=progressive)
    whole = path.read_bytes()
    assert read_image(path, 1, 64).shape == (1, 64, 64)
    path.write_bytes(whole + b"what a camera appends")
    assert read_image(path, 1, 64).shape == (1, 64, 64)
    for share in (0.3, 0.5, 0.9):
        kept = int(share * len(whole))
        for rest in (b"", bytes(len(whole) - kept)):
            path.write_bytes(whole[:kept] + rest)
            with pytest.raises(ImageProblem, match="truncated or damaged"):
                read_image(path, 1, 64)


def test_links_that_lead_back_into_the_data_set_are_problems(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "train/cat", root / "train/dog", root / "test/cat", root / "test/dog", elsewhere):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(b"")
    (root / "train/cat/more").symlink_to(elsewhere)
    assert not list_folder(root).problems
    assert len(list_folder(root).files["train"]) == 3
    for number, target in enumerate((root, tmp_path, root / "test", root / "test/cat", root / "train/dog")):
        (root / f"train/cat/back{number}").symlink_to(target)
    listing = list_folder(root)
    assert len(listing.files["train"]) == 3
    assert len(listing.problems) == 5
    assert str(listing.problems[0]) == "train/cat/back0 cannot be listed (a link into or above the data set)"


def test_a_flipped_bit_in_weights_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    assert read_weights(path, "resnet18")["a"].shape == (1000,)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as parts:
        data = next(name for name in parts.namelist() if name.endswith("data/0"))
    place = whole.index(bytes(2000)) + 100
    path.write_bytes(whole[:place] + b"\1" + whole[place + 1 :])
    with pytest.raises(ValueError, match=f"cannot be read as weights .*wrong sum of {data}"):
        read_weights(path, "resnet18")
    named = tmp_path / "resnet18-0123abcd.pth"
    named.write_bytes(whole)
    with pytest.raises(ValueError, match="wrong digest in its name"):
        read_weights(named, "resnet18")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    good, bad = {"a": torch.ones(3)}, {"a": torch.tensor([1.0, float("nan"), 1.0])}
    network = TrainedNetwork(NetworkKey("some", "fc2", 0.0, 1), (1, 8, 8), 2, Training(), 0.5, 10, "float32")
    network.states = {"init": good, "best": good, "last": bad}
    with pytest.raises(FloatingPointError, match=r"fc2, noise 0, seed 1, got a with NaN .*recipes.fc2.learning_rate"):
        save_network(tmp_path / "a.h5", network)
    assert not os.listdir(tmp_path)


def test_fewer_test_images_than_probes_are_known_at_once(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(ValueError, match=r"at least 51 test images, .*, got 50: lower probes.images"):
        prepare_dataset(path, "mnist5k", train_images=20, test_images=50, least_test_images=51)
    assert not path.exists()
    prepare_dataset(path, "mnist5k", train_images=20, test_images=50, least_test_images=50)
    assert len(read_dataset(path).images["test"]) == 50


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x)


class Comparing(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def test_a_network_is_a_function_of_one_image():
    images = torch.randn(6, 1, 4, 4)
    with pytest.raises(ValueError, match=r"expected a network that gives the same output for the same images, got net\.h5"):
        _check_function(nn.Sequential(nn.Flatten(), Dropping()), images, "net.h5")
    with pytest.warns(UserWarning, match=r"net\.h5 for an image depends on the other images of its batch"):
        _check_function(Comparing(), images, "net.h5")
    with warnings.catch_warnings(action="error"):
        _check_function(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).eval(), images, "net.h5")


def draw(path):
    from relstab.figures.style import plt, save_figure, style

    with style(8):
        figure, ax = plt.subplots()
        ax.plot([1, 2], label="a")
        ax.legend()
        save_figure(figure, [path], 50)


def test_figures_do_not_depend_on_settings_of_the_user(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linestyle: --\naxes.grid: True\nsavefig.bbox: tight\n")
    head = (ROOT / "workflow/scripts/figure.py").read_text().split("from relstab")[0]  # before matplotlib is imported
    settings = {"MPLBACKEND": "module://none_such", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    code = f"{head}\n{inspect.getsource(draw)}\ndraw('elsewhere.png')"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings}, check=True, cwd=tmp_path)
    draw(tmp_path / "here.png")
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("here", "elsewhere")]
    np.testing.assert_array_equal(*pictures)
