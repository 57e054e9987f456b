"""Weights of torchvision's networks: wrapped, renamed, damaged or hostile files."""

import os
import pickle

import pytest
import torch
from torch import nn

from relstab.architectures.torchvision import torchvision
from relstab.architectures.torchvision_networks import build_torchvision, fit_weights, read_weights, size_arguments

NAME = "shufflenet_v2_x0_5"  # small, and with batch norm


def load(path, name=NAME):
    """State dict of the network with the weights of a file."""
    return fit_weights(build_torchvision(name), read_weights(path, name), path, name)


@pytest.fixture
def state():
    return {key: value.clone() for key, value in build_torchvision(NAME, seed=11).state_dict().items()}


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
def test_wrapped_weights_are_unwrapped(state, tmp_path, wrap):
    torch.save(wrap(state), tmp_path / "weights.pth")
    model = build_torchvision(NAME)
    model.load_state_dict(load(tmp_path / "weights.pth"))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_outputs_for_training_alone_and_old_names_of_layers_are_mapped(tmp_path):
    googlenet = torchvision.models.get_model("googlenet", weights=None, init_weights=False)
    assert any(key.startswith("aux1.") for key in googlenet.state_dict())
    torch.save(googlenet.state_dict(), tmp_path / "googlenet.pth")
    assert not any(key.startswith("aux") for key in load(tmp_path / "googlenet.pth", "googlenet"))
    densenet = build_torchvision("densenet121").state_dict()
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in densenet.items()}
    assert any(".denselayer1.conv.2." in key for key in old)
    torch.save(old, tmp_path / "densenet.pth")
    assert list(read_weights(tmp_path / "densenet.pth", "densenet121")) == list(densenet)


def test_a_transformer_is_built_for_the_images_of_its_weights():
    weights = {"conv_proj.weight": torch.zeros(8, 3, 32, 32), "encoder.pos_embedding": torch.zeros(1, 10, 8)}
    assert size_arguments("vit_b_32", weights) == {"image_size": 96}
    assert size_arguments(NAME, weights) == {}


class Hostile:
    def __reduce__(self):
        return (os.mkdir, (self.path,))


def damage(kind, state, path):
    """Write a file that is no complete state dict of the network."""
    if kind == "keys":
        state["conv0.weight"] = state.pop("conv1.0.weight")
    elif kind == "more keys":
        state["fc2.weight"] = torch.zeros(3)
    elif kind == "classes":
        state["fc.weight"] = state["fc.weight"][:10].clone()
    elif kind == "nan":
        state["conv5.0.weight"][0] = torch.nan
    contents = {"a list": [torch.zeros(3)], "empty": {}, "numbers": {"conv1.weight": 3}, "a model": nn.Linear(2, 2)}
    if kind == "text":
        path.write_text("<html>Not found</html>")
    elif kind != "missing":
        torch.save(contents.get(kind, state), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("keys", rf"does not fit {NAME} .*: expected 'conv1.0.weight', \[24, 3, 3, 3\], which is missing"),
        ("more keys", "got 'fc2.weight', which the network does not have"),
        ("classes", r"expected shape \[1000, 1024\] of 'fc.weight', got \[10, 1024\]"),
        ("nan", "expected finite values of 'conv5.0.weight', got NaN"),
        ("a list", "expected a state dict, .*, got a list in"),
        ("empty", "expected a state dict, .*, got an empty dict in"),
        ("numbers", "expected a state dict, .*, got a dict of values that are not tensors"),
        (
            "text",
            r"expected a complete file of torch.save\(model.state_dict\(\), ...\) or .*, but .* cannot be read as weights",
        ),
        ("a model", "cannot be read as weights"),
        ("truncated", "cannot be read as weights"),
        ("missing", "does not exist"),
    ],
)
def test_a_wrong_file_of_weights_gets_one_sentence(state, tmp_path, kind, sentence):
    path = tmp_path / "weights.pth"
    damage(kind, state, path)
    with pytest.raises((ValueError, OSError), match=sentence) as caught:
        load(path)
    assert "weights.pth" in str(caught.value)
    assert f"config.yaml: imagenet.weights.{NAME}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_in_a_file_of_weights_is_executed(state, tmp_path):
    hostile = Hostile()
    hostile.path = str(tmp_path / "executed")
    for number, content in enumerate(({"state_dict": hostile}, {**state, "more": hostile})):
        torch.save(content, tmp_path / f"{number}.pth")
    (tmp_path / "2.pth").write_bytes(pickle.dumps(hostile))
    for number in range(3):
        with pytest.raises(ValueError, match="cannot be read as weights"):
            load(tmp_path / f"{number}.pth")
    assert not (tmp_path / "executed").exists()


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"got 'resnet81' \(config.yaml: imagenet.networks\).*nearest: 'resnet18'"):
        build_torchvision("resnet81")
