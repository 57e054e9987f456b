"""What is refused before the work or at its end, since its numbers would mean nothing."""

import inspect
import os
import signal
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import relstab
from relstab.architectures.torchvision_networks import read_weights
from relstab.config import Training
from relstab.data.image_folder import ImageProblem, list_folder, read_image
from relstab.files.dataset import read_dataset
from relstab.files.ensemble import EnsembleFile, write_ensemble
from relstab.files.network import NetworkKey, TrainedNetwork, read_filters, save_network
from relstab.stages.datasets import prepare_dataset
from relstab.stages.sensitivity import check_function

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


def test_classes_that_a_disk_or_a_reader_can_take_for_one_are_problems(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "Cat", "caf\u00e9", "cafe\u0301", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "a.png").write_bytes(b"")
    assert [str(problem) for problem in list_folder(tmp_path).problems] == [
        "'caf\\xe9' differs from the class 'cafe\\u0301' in case or in the form of its letters alone",
        "'cat' differs from the class 'Cat' in case or in the form of its letters alone",
    ]


BUILDERS = """
import torch
from torch import nn

def seeded(shape, classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))

def normed(shape, classes):
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(shape[0], 2, 3)), nn.Flatten(), nn.LazyLinear(classes))
"""


def test_builders_whose_networks_cannot_be_used_are_refused_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(BUILDERS)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("relstab.architectures.ARCHITECTURES", dict(relstab.ARCHITECTURES))
    plain = {"builder": "~/net.py:normed", "convolutional": False}
    relstab.own_architectures(
        {"seeded": {"builder": "~/net.py:seeded"}, "normed": {"builder": "~/net.py:normed"}, "plain": plain}
    )
    torch.manual_seed(1)  # of its initialization, which the run derives
    with pytest.raises(ValueError, match=r"net\.py:seeded of seeded, which sets their seed, .*leave out torch.manual_seed"):
        relstab.build_model("seeded", (1, 8, 8), 2)
    with pytest.raises(ValueError, match=r"got '0', whose weights are computed .*own_architectures.normed.convolutional: false"):
        relstab.build_model("normed", (1, 8, 8), 2)
    assert relstab.build_model("plain", (1, 8, 8), 2)(torch.zeros(1, 1, 8, 8)).shape == (1, 2)


def test_thousands_of_tensors_are_saved_in_their_order(tmp_path):
    state = {f"layer{number}.weight": torch.full((1, 1, 3, 3), float(number)) for number in range(4200)}
    network = TrainedNetwork(NetworkKey("some", "fc2", 0.0, 1), (1, 8, 8), 2, Training(), 0.5, 10, "float32")
    network.states = {"last": state}
    save_network(tmp_path / "a.h5", network)
    _, filters = read_filters(tmp_path / "a.h5", "last")
    assert [weights[0, 0, 0, 0] for weights in filters.values()] == list(range(4200))


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


def test_ensembles_that_are_not_finite_are_not_saved(tmp_path):
    states = {"init": {"beta": torch.ones(3)}, "trained": {"beta": torch.tensor([1.0, float("inf")])}}
    content = EnsembleFile("task1", {}, {}, {}, [0], [1], [True], [[1.0]], states, {})
    with pytest.raises(
        FloatingPointError, match=r"the ensemble task1, got beta .*scale_detection.experiments.task1.learning_rate"
    ):
        write_ensemble(tmp_path / "a.h5", content)
    assert not os.listdir(tmp_path)


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x)


class Comparing(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def test_a_network_is_a_function_of_one_image():
    images = torch.randn(6, 1, 4, 4)
    with pytest.raises(ValueError, match=r"expected a network that gives the same output for the same images, got net\.h5"):
        check_function(nn.Sequential(nn.Flatten(), Dropping()), images, "net.h5")
    with pytest.warns(UserWarning, match=r"net\.h5 for an image depends on the other images of its batch"):
        check_function(Comparing(), images, "net.h5")
    with warnings.catch_warnings(action="error"):
        check_function(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).eval(), images, "net.h5")


def test_the_library_warns_of_what_is_no_function_of_one_image():
    probes = relstab.make_probes(torch.randn(6, 1, 8, 8), 0.5)
    with pytest.warns(UserWarning, match="draws random numbers in evaluation mode"):
        relstab.measure_sensitivity(nn.Sequential(nn.Flatten(), Dropping()), probes)
    with pytest.warns(UserWarning, match="depends on the other images of its batch"):
        relstab.measure_sensitivity(Comparing(), [probes, probes])
    with warnings.catch_warnings(action="error"):
        relstab.measure_sensitivity(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 2)), iter([probes]), "output")


JOB = """
import sys, types, warnings
sys.path.insert(0, sys.argv[1])
from job import job
snakemake = types.SimpleNamespace(
    rule="probes", wildcards={"noise": "10"}, log=["log.txt"], input=[], output=["out.txt"], params={},
    config={"own_architectures": {}, "results": "."},
)
with job(snakemake):
    for number in (1, 1, 2):
        warnings.warn(f"the field folds {number}")
    warnings.warn("deprecated", DeprecationWarning)
    open("out.txt", "w").close()
"""


def test_a_job_repeats_each_warning_once_on_the_terminal(tmp_path):
    command = [sys.executable, "-W", "always", "-c", JOB, ROOT / "workflow/scripts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [f"relstab: probes (noise 10): warning: the field folds {number}" for number in (1, 2)]
    log = (tmp_path / "log.txt").read_text()
    assert log.count("the field folds 1") >= 2
    assert "deprecated" in log


def test_a_job_stopped_by_ctrl_c_prints_one_line(tmp_path):
    code = JOB.replace('warnings.warn("deprecated", DeprecationWarning)', "__import__('os').kill(__import__('os').getpid(), 2)")
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT / "workflow/scripts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        # Where the tests themselves run in the background, Ctrl-C is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "relstab: probes (noise 10): stopped by Ctrl-C; the next run takes it up again"
    assert "Traceback" not in done.stderr
    assert "KeyboardInterrupt" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "out.txt").exists()


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
