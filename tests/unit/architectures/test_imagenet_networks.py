"""Networks of timm beside those of torchvision: their scale of images, sizes, weights and names."""

import functools
import sys

import numpy as np
import pytest
import torch

import relstab
from relstab.architectures.imagenet_networks import MEAN, STD, build_imagenet_network, check_image_size
from relstab.cli.models import load_model
from relstab.files.network import IMAGENET, NetworkKey, in_file_names, out_of_file_names
from relstab.runs.seeding import derive_seed
from relstab.stages.imagenet import write_pretrained
from relstab.stages.spectra import analyse_filters
from relstab.stages.tables import spectrum_table

NAME = "timm:test_resnet"  # small, and made for a mean and standard deviation of 0.5


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def weights(timm, tmp_path):
    """File of a state dict whose weights stand for pretrained ones."""
    torch.manual_seed(11)
    model = timm.create_model("test_resnet")
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def on_imagenet_scale(pixels):
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def test_a_network_of_timm_brings_images_to_its_own_scale(timm, weights, tmp_path):
    write_pretrained(tmp_path / "a.h5", NAME, weights)
    bare = timm.create_model("test_resnet").eval()
    bare.load_state_dict(torch.load(weights, weights_only=True))
    pixels = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        loaded = relstab.load_network(tmp_path / "a.h5")
        expected = bare((pixels - 0.5) / 0.5)
        torch.testing.assert_close(loaded(on_imagenet_scale(pixels)), expected, rtol=1e-4, atol=1e-5)
        # A copy with shuffled channels does so, too.
        shuffled, copy = relstab.shuffle_channels(loaded), relstab.shuffle_channels(bare)
        torch.testing.assert_close(shuffled(on_imagenet_scale(pixels)), copy((pixels - 0.5) / 0.5), rtol=1e-4, atol=1e-5)


def test_layers_are_those_of_the_bare_network(timm):
    probes = relstab.make_probes(torch.randn(4, 3, 64, 64))
    model, bare = build_imagenet_network(NAME), timm.create_model("test_resnet")
    assert relstab.find_layers(model, probes.images) == relstab.find_layers(bare, probes.images)
    table = relstab.measure_sensitivity(model, probes)
    assert list(table["layer"]) == list(relstab.measure_sensitivity(bare, probes)["layer"])
    np.testing.assert_allclose(table.loc[table["layer"] == "input", "R"], 1, rtol=1e-5)  # the images as they are given


@pytest.mark.usefixtures("timm")
def test_the_pipeline_and_the_command_build_the_same_network(weights, tmp_path):
    write_pretrained(tmp_path / "a.h5", NAME, weights, seed=3)
    initial = relstab.load_network(tmp_path / "a.h5", "init").state_dict()
    seed = derive_seed("initialization", 3, IMAGENET, NAME, 0.0, 0)
    named = load_model(NAME, seed=seed)
    assert all(torch.equal(value, initial[name]) for name, value in named.model.state_dict().items())
    other = load_model(NAME, seed=seed + 1).model.state_dict()
    assert not torch.equal(other["conv1.0.weight"], initial["conv1.0.weight"])
    assert (named.size, named.normalisation) == (160, ((0.5,) * 3, (0.5,) * 3))
    # Its filters, in the table, under the name of the config.
    analyse_filters(tmp_path / "spectra.h5", tmp_path / "a.h5")
    assert set(spectrum_table([tmp_path / "spectra.h5"])["architecture"]) == {NAME}


def test_the_published_weights_are_read_by_timm(timm, weights, tmp_path, monkeypatch):
    """timm's own loader reads a local file in place of a download."""
    read_local = functools.partial(timm.create_model, pretrained_cfg_overlay={"file": str(weights)})
    monkeypatch.setattr(timm, "create_model", read_local)
    write_pretrained(tmp_path / "a.h5", NAME)
    expected = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in relstab.load_network(tmp_path / "a.h5").state_dict().items())


def test_without_published_weights_a_local_file_is_asked_for(timm, tmp_path, monkeypatch):
    def refused(_name, pretrained=False, **_):
        assert pretrained
        raise RuntimeError("no\nconnection")

    monkeypatch.setattr(timm, "create_model", refused)
    sentence = (
        r"expected the weights that timm publishes for timm:test_resnet .*, got RuntimeError: no connection; or name a local "
        r"file \(config.yaml: imagenet.weights.timm:test_resnet\)$"
    )
    with pytest.raises(OSError, match=sentence):
        write_pretrained(tmp_path / "a.h5", NAME)


def test_weights_may_be_safetensors(weights, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = torch.load(weights, weights_only=True)
    safetensors.save_file(state, tmp_path / "model.safetensors")
    write_pretrained(tmp_path / "a.h5", NAME, tmp_path / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in relstab.load_network(tmp_path / "a.h5").state_dict().items())
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"or of safetensors, but .* cannot be read as weights"):
        write_pretrained(tmp_path / "a.h5", NAME, tmp_path / "bad.safetensors")


@pytest.mark.usefixtures("timm")
def test_a_size_that_a_network_does_not_take_is_one_sentence():
    sentence = r"images of a size that timm:test_coatnet takes, 160 pixels, got 64 x 64 pixels \(config.yaml: imagenet.crop\)"
    with pytest.raises(ValueError, match=sentence):
        check_image_size(build_imagenet_network("timm:test_coatnet"), torch.randn(2, 3, 64, 64), "timm:test_coatnet")


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("name", "near"), [("timm:resnet81", "'resnet18'"), ("timm:test_resnet.r160", "'test_resnet.r160_in1k'")]
)
def test_an_unknown_name_of_timm_is_told_the_nearest(name, near):
    with pytest.raises(ValueError, match=rf"expected a name in timm.list_models\(\) .*, got '{name}' \(nearest: {near}"):
        build_imagenet_network(name)


def test_without_timm_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"expected timm for timm:test_resnet, .*: pip install timm$"):
        build_imagenet_network(NAME)


def test_names_in_file_names_have_no_colon_and_come_back():
    names = ["resnet18", "timm:resnet18", "timm:resnet18.a1_in1k", "timm:timm", "timm"]
    spelled = [in_file_names(name) for name in names]
    assert spelled == ["resnet18", "timm-resnet18", "timm-resnet18.a1_in1k", "timm-timm", "timm"]
    assert [out_of_file_names(name) for name in spelled] == names
    assert NetworkKey(IMAGENET, names[2], 0.0, 0).path == "imagenet/timm-resnet18.a1_in1k/noise0/seed0"
