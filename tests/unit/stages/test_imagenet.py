"""Networks of torchvision: weights from local and published files, images to measure them on, and the workflow over both."""

import collections
import functools
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import threading

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import relstab
from relstab.architectures.torchvision import torchvision
from relstab.config import ConfigError, load_config
from relstab.data.download import download
from relstab.filter_spectra import write_spectra
from relstab.probes import read_probes
from relstab.stages import imagenet
from relstab.stages.imagenet import (
    MEAN,
    STD,
    build_torchvision,
    hub_weights,
    read_calibration_images,
    write_imagenet_images,
    write_imagenet_probes,
    write_pretrained,
)
from relstab.stages.sensitivity import measure_network, measure_shuffled
from relstab.tables.networks import sensitivity_table, spectrum_table

from helpers import ROOT

SIZE = 64


def image_file(path, seed, size=(90, 70)):
    """Blobs of colour in the format of the suffix."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (7, 9, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in folders by class and beside them, in two formats."""
    root = tmp_path_factory.mktemp("images")
    for number in range(8):
        image_file(root / f"class{number % 2}" / f"{number}.JPEG", number)
        image_file(root / f"flat{number}.png", 100 + number, (70, 110))
    return root


@pytest.fixture(scope="module")
def images(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("datasets") / "imagenet.h5"
    write_imagenet_images(path, folder, 6, 70, SIZE)
    return path


def trained(name, seed=11):
    """A network whose weights stand for pretrained ones: all parameters and buffers are moved."""
    model = build_torchvision(name, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
            elif key.endswith("num_batches_tracked"):
                value.fill_(7)
    return model


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A network, and the file of its weights."""
    model = trained("resnet18")
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(model.state_dict(), path)
    return model, path


@pytest.fixture(scope="module")
def network(resnet, images, tmp_path_factory):
    """File of a pretrained network in the format of the run's."""
    path = tmp_path_factory.mktemp("networks") / "seed0.h5"
    write_pretrained(path, "resnet18", resnet[1], read_calibration_images(images))
    return path


def states(path):
    with h5py.File(path) as file:
        return {
            state: {name: torch.as_tensor(file[state][name][()]) for name in file.attrs["parameters_in_order"]}
            for state in ("init", "best", "last")
        }


def test_a_file_holds_the_pretrained_network_and_its_initialization(resnet, network, images):
    model, _ = resnet
    saved = states(network)
    assert list(saved["last"]) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(saved["last"][name], value)
        assert torch.equal(saved["best"][name], value)
    fresh = build_torchvision("resnet18", seed=relstab.seeding.derive_seed("initialization", 0, "imagenet", "resnet18", 0, 0))
    for name, value in fresh.named_parameters():
        assert torch.equal(saved["init"][name], value)
    # The first statistics are those of the calibration images.
    with torch.no_grad():
        seen = fresh.conv1(read_calibration_images(images))
    torch.testing.assert_close(saved["init"]["bn1.running_mean"], seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    # No second copy of the weights.
    with h5py.File(network) as file:
        assert file["best"] == file["last"]
    assert network.stat().st_size < 2.1 * 4 * sum(value.numel() for value in model.state_dict().values())


def test_a_loaded_network_gives_what_torchvision_gives(resnet, network, images):
    model, _ = resnet
    batch = read_calibration_images(images)
    loaded = relstab.load_network(network)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(batch), model.eval()(batch))
        assert not torch.equal(relstab.load_network(network, "init")(batch), model(batch))
    with pytest.raises(ValueError, match="'init', 'best', 'last'"):
        relstab.load_network(network, "epoch3")


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "mnasnet0_5", "densenet121", "googlenet"])
def test_networks_of_other_kinds_come_back_as_they_were(tmp_path, name):
    model = trained(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    write_pretrained(tmp_path / "a.h5", name, tmp_path / "weights.pth")
    batch = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        output = relstab.load_network(tmp_path / "a.h5")(batch)
        assert output.shape == (2, 1000)
        assert torch.equal(output, model.eval()(batch))


def test_outputs_for_training_alone_are_left_out(tmp_path):
    whole = torchvision.models.get_model("googlenet", weights=None, init_weights=False)
    assert any(key.startswith("aux1.") for key in whole.state_dict())
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    write_pretrained(tmp_path / "a.h5", "googlenet", tmp_path / "weights.pth")
    assert not any(key.startswith("aux") for key in states(tmp_path / "a.h5")["last"])


def test_a_transformer_of_larger_images_is_built_for_them(tmp_path):
    model = torchvision.models.get_model("vit_b_32", weights=None, image_size=96).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    write_pretrained(tmp_path / "a.h5", "vit_b_32", tmp_path / "weights.pth", torch.randn(2, 3, 96, 96))
    with torch.no_grad():
        batch = torch.randn(2, 3, 96, 96)
        assert torch.equal(relstab.load_network(tmp_path / "a.h5")(batch), model(batch))


def test_images_that_a_network_does_not_take_get_one_sentence(tmp_path):
    torch.save(trained("squeezenet1_1").state_dict(), tmp_path / "weights.pth")
    sentence = r"squeezenet1_1 does not take images of 8 x 8 pixels \(config.yaml: imagenet.crop\): a size that it takes"
    with pytest.raises(ValueError, match=sentence):
        write_pretrained(tmp_path / "a.h5", "squeezenet1_1", tmp_path / "weights.pth", torch.randn(2, 3, 8, 8))
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    ],
    ids=["wrapped", "as model", "parallel", "wrapped and parallel", "half precision", "before 0.4.1"],
)
def test_wrapped_weights_are_unwrapped(resnet, tmp_path, wrap):
    model, _ = resnet
    torch.save(wrap(model.state_dict()), tmp_path / "weights.pth")
    write_pretrained(tmp_path / "a.h5", "resnet18", tmp_path / "weights.pth")
    loaded = relstab.load_network(tmp_path / "a.h5")
    for mine, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_old_names_of_densenets_layers_are_known(tmp_path):
    model = trained("densenet121")
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in model.state_dict().items()}
    assert any(".denselayer1.conv.2." in key for key in old)
    torch.save(old, tmp_path / "weights.pth")
    write_pretrained(tmp_path / "a.h5", "densenet121", tmp_path / "weights.pth")
    assert list(states(tmp_path / "a.h5")["last"]) == list(model.state_dict())


class Hostile:
    def __reduce__(self):
        return (os.mkdir, (self.path,))


def damage(kind, state, path):
    """A file that is no whole state dict of resnet18."""
    if kind == "keys":
        state["conv0.weight"] = state.pop("conv1.weight")
    elif kind == "more keys":
        state["fc2.weight"] = torch.zeros(3)
    elif kind == "classes":
        state["fc.weight"] = state["fc.weight"][:10].clone()
    elif kind == "nan":
        state["layer1.0.conv1.weight"][0] = torch.nan
    if kind == "a list":
        torch.save([torch.zeros(3)], path)
    elif kind == "empty":
        torch.save({}, path)
    elif kind == "numbers":
        torch.save({"conv1.weight": 3}, path)
    elif kind == "text":
        path.write_text("<html>Not found</html>")
    elif kind == "a model":
        torch.save(nn.Linear(2, 2), path)
    elif kind != "missing":
        torch.save(state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("keys", r"does not fit resnet18 of torchvision .*: it has no 'conv1.weight', \[64, 3, 7, 7\]"),
        ("more keys", "it has 'fc2.weight', which the network does not have"),
        ("classes", r"'fc.weight' has shape \[10, 512\], and \[1000, 512\] is wanted"),
        ("nan", "'layer1.0.conv1.weight' has values that are NaN"),
        ("a list", "holds a list .*: a state dict"),
        ("empty", "holds an empty dict .*: a state dict"),
        ("numbers", "holds a dict of other things than tensors .*: a state dict"),
        ("text", r"cannot be read as weights .*: a whole file that torch.save\(model.state_dict\(\), ...\) wrote is wanted"),
        ("a model", "cannot be read as weights"),
        ("truncated", "cannot be read as weights"),
        ("missing", "does not exist"),
    ],
)
def test_a_wrong_file_of_weights_gets_one_sentence(resnet, tmp_path, kind, sentence):
    path = tmp_path / "weights.pth"
    damage(kind, {key: value.clone() for key, value in resnet[0].state_dict().items()}, path)
    with pytest.raises((ValueError, OSError), match=sentence) as caught:
        write_pretrained(tmp_path / "a.h5", "resnet18", path)
    assert "weights.pth" in str(caught.value)
    assert "config.yaml: imagenet.weights.resnet18" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.h5").exists()


def test_nothing_in_a_file_of_weights_is_executed(resnet, tmp_path):
    hostile = Hostile()
    hostile.path = str(tmp_path / "executed")
    for number, content in enumerate(({"state_dict": hostile}, {**resnet[0].state_dict(), "more": hostile})):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        with pytest.raises(ValueError, match="cannot be read as weights"):
            write_pretrained(tmp_path / "a.h5", "resnet18", path)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(hostile))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        write_pretrained(tmp_path / "a.h5", "resnet18", plain)
    assert not (tmp_path / "executed").exists()


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"'resnet81' is given \(config.yaml: imagenet.networks\).*nearest: 'resnet18'"):
        build_torchvision("resnet81")


def test_initialization_follows_from_the_seed_alone(resnet, tmp_path):
    weights = []
    for attempt, seed in enumerate((0, 0, 1)):
        torch.manual_seed(attempt)
        before = torch.random.get_rng_state()
        write_pretrained(tmp_path / "a.h5", "resnet18", resnet[1], seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        weights.append(states(tmp_path / "a.h5")["init"]["layer4.1.conv2.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_spectra_are_those_of_the_weights_of_the_file(resnet, network, tmp_path):
    write_spectra(tmp_path / "spectra.h5", network)
    table = spectrum_table([tmp_path / "spectra.h5"])
    assert set(table["dataset"]) == {"imagenet"}
    assert set(table["architecture"]) == {"resnet18"}
    for state, model in (("trained", resnet[0]), ("init", relstab.load_network(network, "init"))):
        rows = table[table["state"] == state]
        convolutions = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
        wanted = [(name, layer) for name, layer in convolutions if layer.kernel_size[0] > 1]
        assert rows["layer"].drop_duplicates().tolist() == [name for name, _ in wanted]
        for name, layer in wanted:
            gamma = rows.loc[rows["layer"] == name, "gamma"].to_numpy()
            np.testing.assert_allclose(gamma, relstab.filter_spectrum(layer.weight).numpy(), rtol=1e-12)


def test_filters_that_are_not_square_have_no_spectrum(tmp_path):
    """As the 1 x 7 and 7 x 1 ones of Inception."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"dataset": "imagenet", "architecture": "some", "noise": 0.0, "seed": 0})
        file.attrs["parameters_in_order"] = ["row.weight", "column.weight", "square.weight"]
        for state in ("init", "last"):
            for name, shape in (("row", (1, 7)), ("column", (7, 1)), ("square", (3, 3))):
                file[f"{state}/{name}.weight"] = np.ones((2, 2, *shape), np.float32)
    write_spectra(tmp_path / "spectra.h5", tmp_path / "a.h5")
    assert set(spectrum_table([tmp_path / "spectra.h5"])["layer"]) == {"square"}


def test_sensitivities_are_measured_as_those_of_the_run(network, images, tmp_path):
    write_imagenet_probes(tmp_path / "probes.h5", images, 1.0, 3, "bilinear")
    measure_network(tmp_path / "plain.h5", network, tmp_path / "probes.h5", device="cpu")
    measure_shuffled(tmp_path / "shuffled.h5", network, tmp_path / "probes.h5", 2, device="cpu")
    table = sensitivity_table([tmp_path / "plain.h5"], [tmp_path / "shuffled.h5"])
    assert set(table["shuffle"]) == {"none", "0", "1"}
    inputs = table[table["layer"] == "input"]
    assert len(inputs) == 6
    np.testing.assert_allclose(inputs["R"], 1, rtol=1e-5)
    np.testing.assert_allclose(inputs["D"], inputs["G"], rtol=1e-5)
    assert np.isfinite(table[["D", "G", "R"]].to_numpy()).all()
    outputs = table[table["layer"] == "output"].set_index(["state", "shuffle"])["R"]
    assert outputs[("trained", "none")] != outputs[("trained", "0")] != outputs[("trained", "1")]


def test_images_are_chosen_by_the_seed_and_their_names(folder, images, tmp_path):
    with h5py.File(images) as file:
        chosen = file["probes_files"].asstr()[:].tolist()
        others = file["calibration_files"].asstr()[:].tolist()
        pixels = file["probes"][:]
        assert file["calibration"].shape == (10, 3, SIZE, SIZE)
    assert pixels.shape == (6, 3, SIZE, SIZE)
    assert pixels.dtype == np.uint8
    assert len({*chosen, *others}) == 16
    assert {os.path.dirname(name) for name in [*chosen, *others]} == {"", "class0", "class1"}
    # The shorter side resized to 70, the centre of 64 cut out.
    for name, mine in zip(chosen, pixels, strict=True):
        with Image.open(folder / name) as image:
            width, height = image.size
            assert min(width, height) == 70
            left, top = (width - SIZE) // 2, (height - SIZE) // 2
            cut = np.asarray(image.convert("RGB"))[top : top + SIZE, left : left + SIZE]
        np.testing.assert_array_equal(mine, cut.transpose(2, 0, 1))
    # Written in another order, with one more, under another folder.
    elsewhere = tmp_path / "elsewhere"
    for name in sorted([*chosen, *others], reverse=True):
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_bytes((folder / name).read_bytes())
    write_imagenet_images(tmp_path / "again.h5", elsewhere, 6, 70, SIZE)
    with h5py.File(tmp_path / "again.h5") as file:
        assert file["probes_files"].asstr()[:].tolist() == chosen
    image_file(elsewhere / "more.png", 1000)
    write_imagenet_images(tmp_path / "again.h5", elsewhere, 6, 70, SIZE)
    with h5py.File(tmp_path / "again.h5") as file:
        assert len(set(chosen) - set(file["probes_files"].asstr()[:])) <= 1
    write_imagenet_images(tmp_path / "again.h5", elsewhere, 6, 70, SIZE, seed=1)
    with h5py.File(tmp_path / "again.h5") as file:
        assert file["probes_files"].asstr()[:].tolist() != chosen
    write_imagenet_images(tmp_path / "again.h5", folder, 8, 70, SIZE)
    with h5py.File(tmp_path / "again.h5") as file:
        assert file["probes_files"].asstr()[:6].tolist() == chosen


def test_probes_are_normalised_as_the_networks_were_trained(images, tmp_path):
    write_imagenet_probes(tmp_path / "probes.h5", images, 1.0, 3, "bilinear")
    probes = read_probes(tmp_path / "probes.h5")
    with h5py.File(images) as file:
        pixels = file["probes"][:] / 255
    expected = (pixels - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(probes.images.numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        (probes.deformed - probes.images).flatten(1).norm(dim=1), (probes.noisy - probes.images).flatten(1).norm(dim=1)
    )


def test_where_few_images_are_left_those_to_perturb_serve_for_both(folder, tmp_path):
    write_imagenet_images(tmp_path / "a.h5", folder, 12, 70, SIZE)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["calibration"][:], file["probes"][:])


def test_what_is_no_whole_image_is_skipped_with_a_line(folder, tmp_path, capsys):
    root = tmp_path / "images"
    for file in sorted(folder.rglob("*.*"))[:6]:
        (root / file.name).parent.mkdir(exist_ok=True)
        (root / file.name).write_bytes(file.read_bytes())
    (root / "labels.txt").write_text("some")
    (root / "cut.jpg").write_bytes(next(folder.rglob("*.JPEG")).read_bytes()[:300])
    (root / "text.png").write_text("none")
    write_imagenet_images(tmp_path / "a.h5", root, 6, 70, SIZE)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped: ")]
    assert {line.split()[1] for line in lines} <= {"labels.txt", "cut.jpg", "text.png"}
    assert len(lines) >= 1
    with pytest.raises(
        ValueError, match=r"7 images are wanted \(config.yaml: imagenet.probes\), and .*images has 6 .* of 9 files"
    ):
        write_imagenet_images(tmp_path / "b.h5", root, 7, 70, SIZE)
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder \(config.yaml: imagenet.images\)"):
        write_imagenet_images(tmp_path / "b.h5", tmp_path / "nowhere", 7, 70, SIZE)
    assert not (tmp_path / "b.h5").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Folder of torch's hub, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub" / "hub" / "checkpoints"


Weights = collections.namedtuple("Weights", "DEFAULT")
Entry = collections.namedtuple("Entry", "url")


def published(monkeypatch, url):
    monkeypatch.setattr(imagenet, "download", functools.partial(download, wait=0.01))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: Weights(Entry(url)))


@pytest.fixture
def server(tmp_path):
    """A server on this machine, its address and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}", folder
        serving.shutdown()
        thread.join()


def small_weights():
    file = io.BytesIO()
    torch.save(trained("squeezenet1_1").state_dict(), file)
    content = file.getvalue()
    return content, hashlib.sha256(content).hexdigest()


def test_a_published_file_that_is_there_needs_no_network(hub, monkeypatch, tmp_path):
    content, digest = small_weights()
    name = f"squeezenet1_1-{digest[:8]}.pth"
    published(monkeypatch, f"http://127.0.0.1:1/{name}")
    monkeypatch.setattr(imagenet, "download", None)
    hub.mkdir(parents=True)
    (hub / name).write_bytes(content)
    assert hub_weights("squeezenet1_1") == hub / name
    write_pretrained(tmp_path / "a.h5", "squeezenet1_1")
    expected = torch.load(hub / name, weights_only=True)
    assert torch.equal(states(tmp_path / "a.h5")["last"]["features.0.weight"], expected["features.0.weight"])
    (hub / name).write_bytes(content + b"more")
    with pytest.raises(ValueError, match=rf"is not the file that torchvision published: .* {digest[:8]} is wanted; delete it"):
        hub_weights("squeezenet1_1")


def test_a_published_file_is_downloaded_once(hub, server, monkeypatch):
    address, folder = server
    content, digest = small_weights()
    name = f"squeezenet1_1-{digest[:8]}.pth"
    (folder / name).write_bytes(content)
    published(monkeypatch, f"{address}/{name}")
    assert hub_weights("squeezenet1_1").read_bytes() == content
    (folder / name).unlink()
    assert hub_weights("squeezenet1_1").read_bytes() == content
    # What arrives otherwise than its name promises is not kept.
    (hub / name).unlink()
    (folder / name).write_bytes(content[:-1] + b"?")
    with pytest.raises(OSError, match="could not be downloaded"):
        hub_weights("squeezenet1_1")
    assert not (hub / name).exists()


def test_without_a_network_one_sentence_says_what_to_do(hub, monkeypatch):
    url = "http://127.0.0.1:1/resnet18-f37072fd.pth"
    published(monkeypatch, url)
    with pytest.raises(OSError, match=r"weights of resnet18 are not in .*resnet18-f37072fd.pth and could not be") as caught:
        hub_weights("resnet18")
    text = str(caught.value)
    assert str(hub) in text
    assert f"put the file {url} there, or name a local file of weights (config.yaml: imagenet.weights.resnet18)" in text
    assert "\n" not in text


def test_the_published_files_have_digests_in_their_names():
    for name in torchvision.models.list_models(module=torchvision.models):
        url = torchvision.models.get_model_weights(name).DEFAULT.url
        assert imagenet._DIGEST.search(url), name


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            {"networks": ["resnet18", "resnet18"]},
            "expected distinct values, got 'resnet18' more than once",
        ),
        ({"networks": ["res/net"]}, r"expected a name of letters, .*, got 'res/net' \(config.yaml: imagenet.networks\[0\]"),
        ({"networks": ["vgg11"], "weights": {"vgg13": "a.pth"}}, "expected one of vgg11, got 'vgg13' .*imagenet.weights.vgg13"),
        ({"networks": ["vgg11"], "weights": {"vgg11": "{a}.pth"}}, "expected a path without braces"),
        ({"resize": 200}, "expected at most imagenet.resize .200., got 224 .config.yaml: imagenet.crop."),
        ({"probes": 1}, "expected a number of at least 2, got 1 .config.yaml: imagenet.probes."),
        ({"network": []}, "expected one of the keys networks, .*nearest: 'networks'; config.yaml: imagenet.network."),
    ],
)
def test_a_wrong_key_gets_one_sentence(section, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config({"architectures": ["fc2"], "imagenet": section})


def snakemake(folder, config, *arguments):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    done = subprocess.run(
        [*command, *arguments, "--configfile", str(config)], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_workflow_draws_both_figures_from_files_alone(resnet, folder, tmp_path):
    torch.save(trained("squeezenet1_1").state_dict(), tmp_path / "squeeze.pth")
    (tmp_path / "resnet.pth").write_bytes(resnet[1].read_bytes())
    section = {
        "networks": ["resnet18", "squeezenet1_1"],
        "weights": {"resnet18": "resnet.pth", "squeezenet1_1": "squeeze.pth"},
        "images": str(folder), "probes": 6, "resize": 70, "crop": SIZE,
    }  # fmt: skip
    raw = yaml.safe_load((ROOT / "configs/smoke.yaml").read_text()) | {"imagenet": section, "results": "out", "device": "cpu"}
    raw["channel_shuffle"] = {"count": 1}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw))
    targets = [f"out/figures/{name}.png" for name in ("fig14_filter_spectra_imagenet", "imagenet_shuffled_layers")]
    code, text = snakemake(tmp_path, config, *targets, "--cores", "2")
    assert code == 0, text
    for target in targets:
        assert (tmp_path / target).stat().st_size > 10_000
        assert (tmp_path / target).with_suffix(".pdf").exists()
    assert not (tmp_path / "out/networks/mnist5k").exists()  # the run's own networks are not trained for it
    sensitivity = pd.read_csv(tmp_path / "out/tables/imagenet_sensitivity.csv", dtype={"shuffle": str})
    assert set(sensitivity["architecture"]) == {"resnet18", "squeezenet1_1"}
    assert set(sensitivity["shuffle"]) == {"none", "0"}
    spectrum = pd.read_csv(tmp_path / "out/tables/imagenet_spectrum.csv")
    assert set(spectrum["state"]) == {"init", "trained"}

    # Nothing of it is left to do for the whole.
    code, text = snakemake(tmp_path, config, "all", "-n", "--cores", "2")
    assert code == 0, text
    assert "imagenet_network" not in text
    # A new file of weights makes its network anew, and no other.
    os.utime(tmp_path / "squeeze.pth")
    code, text = snakemake(tmp_path, config, *targets, "-n", "--cores", "2")
    assert text.count("rule imagenet_network:") == 1
    assert "rule imagenet_probes:" not in text


def test_a_network_that_is_unknown_or_has_no_weights_ends_its_job_with_one_sentence(tmp_path):
    raw = yaml.safe_load((ROOT / "configs/smoke.yaml").read_text()) | {"results": "out", "device": "cpu"}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**raw, "imagenet": {"networks": ["resnet81"]}}))
    code, text = snakemake(tmp_path, config, "out/figures/fig14_filter_spectra_imagenet.png", "--cores", "1")
    assert code != 0
    assert "relstab: imagenet_network (architecture resnet81): 'resnet81' is given (config.yaml: imagenet.networks)" in text
    config.write_text(yaml.safe_dump({**raw, "imagenet": {"networks": ["resnet18"], "weights": {"resnet18": "nowhere.pth"}}}))
    code, text = snakemake(tmp_path, config, "out/figures/fig14_filter_spectra_imagenet.png", "--cores", "1")
    assert code != 0
    assert "nowhere.pth" in text
