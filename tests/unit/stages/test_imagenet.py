"""Networks of torchvision: weights from local and published files, and images to measure them on."""

import collections
import functools
import hashlib
import http.server
import io
import os
import threading

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import relstab
from relstab.architectures.imagenet_networks import MEAN, STD
from relstab.architectures.torchvision import torchvision
from relstab.architectures.torchvision_networks import build_torchvision
from relstab.config import ConfigError, load_config
from relstab.data.download import download
from relstab.files.hdf5 import write_hdf5
from relstab.files.probes import read_probes
from relstab.runs.seeding import derive_seed
from relstab.stages import imagenet
from relstab.stages.imagenet import (
    hub_weights,
    read_calibration_images,
    write_imagenet_images,
    write_imagenet_probes,
    write_pretrained,
)
from relstab.stages.sensitivity import measure_network, measure_shuffled
from relstab.stages.spectra import analyse_filters
from relstab.stages.tables import sensitivity_table, spectrum_table

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
    fresh = build_torchvision("resnet18", seed=derive_seed("initialization", 0, "imagenet", "resnet18", 0, 0))
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "mnasnet0_5"])
def test_networks_of_other_kinds_come_back_as_they_were(tmp_path, name):
    model = trained(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    write_pretrained(tmp_path / "a.h5", name, tmp_path / "weights.pth")
    batch = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        output = relstab.load_network(tmp_path / "a.h5")(batch)
        assert output.shape == (2, 1000)
        assert torch.equal(output, model.eval()(batch))


def test_images_that_a_network_does_not_take_get_one_sentence(tmp_path):
    torch.save(trained("squeezenet1_1").state_dict(), tmp_path / "weights.pth")
    sentence = r"images of a size that squeezenet1_1 takes, .*, got 8 x 8 pixels \(config.yaml: imagenet.crop\); the network"
    with pytest.raises(ValueError, match=sentence):
        write_pretrained(tmp_path / "a.h5", "squeezenet1_1", tmp_path / "weights.pth", torch.randn(2, 3, 8, 8))
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.slow
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
    analyse_filters(tmp_path / "spectra.h5", network)
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
    key = {"dataset": "imagenet", "architecture": "some", "noise": 0.0, "seed": 0}
    names = ["row.weight", "column.weight", "square.weight"]
    with write_hdf5(tmp_path / "a.h5", {**key, "parameters_in_order": names}, "network") as file:
        for state in ("init", "last"):
            for name, shape in (("row", (1, 7)), ("column", (7, 1)), ("square", (3, 3))):
                file[f"{state}/{name}.weight"] = np.ones((2, 2, *shape), np.float32)
    analyse_filters(tmp_path / "spectra.h5", tmp_path / "a.h5")
    assert set(spectrum_table([tmp_path / "spectra.h5"])["layer"]) == {"square"}


@pytest.mark.slow
def test_sensitivities_are_measured_as_those_of_the_run(network, images, tmp_path):
    write_imagenet_probes(tmp_path / "probes.h5", images, 1.0, 3, "bilinear")
    measure_network(tmp_path / "plain.h5", network, tmp_path / "probes.h5", device="cpu")
    measure_shuffled(tmp_path / "shuffled.h5", network, tmp_path / "probes.h5", 2, device="cpu")
    table = sensitivity_table([tmp_path / "plain.h5"], [tmp_path / "shuffled.h5"])
    assert set(table["shuffle"]) == {"none", "0", "1"}
    inputs = table[table["layer"] == "input"]
    assert len(inputs) == 3 + 2 * 2 * 2  # states; states, shuffles and statistics
    np.testing.assert_allclose(inputs["R"], 1, rtol=1e-5)
    np.testing.assert_allclose(inputs["D"], inputs["G"], rtol=1e-5)
    assert np.isfinite(table[["D", "G", "R"]].to_numpy()).all()
    outputs = table[(table["layer"] == "output") & (table["statistics"] != "recalibrated")].set_index(["state", "shuffle"])["R"]
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
        ValueError, match=r"expected 7 usable images in .*images \(config.yaml: imagenet.probes\), got 6 of 9 files"
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
    with pytest.raises(ValueError, match=rf"begins with {digest[:8]}, as torchvision published it, got .*: delete the file"):
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
    with pytest.raises(OSError, match=r"weights of resnet18 are not at .*resnet18-f37072fd.pth and could not be") as caught:
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
        (
            {"networks": ["res/net"]},
            r"expected a name in torchvision or timm, .*, got 'res/net' \(config.yaml: imagenet.networks\[0\]",
        ),
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
