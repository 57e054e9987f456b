"""The layers of the paper in any network: modules and functions, gates, blocks; counts against those of the architectures."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

import relstab
from relstab.activations import Trace
from relstab.architectures.torchvision import torchvision
from relstab.paper_layers import paper_layers


def small_probes(size=32, count=3):
    generator = torch.Generator().manual_seed(0)
    return relstab.make_probes(torch.randn(count, 3, size, size, generator=generator), generator=generator)


class Functional(nn.Module):
    """Each way to apply an activation, after as many convolutions."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(7)])
        self.silu = nn.SiLU(inplace=True)

    def forward(self, x):
        a, b, c, d, e, f, g = self.convolutions
        x = functional.relu(a(x), inplace=True)
        x = torch.relu(b(x))
        x = c(x).relu_()
        x = functional.max_pool2d(functional.gelu(d(x)), 2)
        x = self.silu(e(x))
        x = torch.relu(x)  # no weights since the last
        x = f(x).tanh()
        return g(x).flatten(1)


class Squeezed(nn.Module):
    """Squeeze and excitation inside of the block that it gates."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.squeeze = nn.Linear(channels, 2)
        self.excite = nn.Linear(2, channels)

    def forward(self, x):
        y = functional.relu(self.conv(x))
        factor = functional.relu(self.squeeze(y.mean((2, 3))))
        factor = torch.sigmoid(self.excite(factor))
        return functional.relu(self.conv(y * factor[:, :, None, None]))


def names(model, size=32, which="paper"):
    return [layer for layer, _ in relstab.find_layers(model, torch.randn(2, 3, size, size), which)]


def test_functions_are_found_where_they_are_applied():
    assert names(Functional()) == ["relu(1)", "relu(2)", "relu(3)", "gelu(1)", "silu", "tanh(1)"]


def test_functions_are_measured_as_modules_are():
    """A network written with functions has the numbers of the same network written with modules."""

    class Plain(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = functional.relu(layer(x), inplace=True)
            return x

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)]
    probes = small_probes()
    functions = relstab.measure_sensitivity(Plain(*layers), probes, layers="paper")
    modules = relstab.measure_sensitivity(nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU()), probes, layers="paper")
    assert list(functions["layer"]) == ["input", "relu(1)", "relu(2)", "output"]
    assert list(functions["kind"]) == ["input", "relu", "relu", "output"]
    figures = ["D", "G", "R", "D_sem", "G_sem", "R_sem", "denominator"]
    assert functions[figures].equals(modules[figures])
    chosen = relstab.measure_sensitivity(Plain(*layers), probes, layers=["relu(2)"])
    assert chosen["D"].item() == functions["D"].iloc[2]


def test_gates_are_no_layers():
    assert names(nn.Sequential(Squeezed(3), Squeezed(3))) == ["0.relu(1)", "0.relu(3)", "1.relu(1)", "1.relu(3)"]


def test_a_gate_at_one_place_is_a_gate_as_in_the_other_blocks():
    """On the last block's single pixel a factor is as large as what it scales."""
    model = nn.Sequential(Squeezed(3), nn.AvgPool2d(32), Squeezed(3))
    assert names(model) == ["0.relu(1)", "0.relu(3)", "2.relu(1)", "2.relu(3)"]


class Mlp(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(channels, 4), nn.GELU(), nn.Linear(4, channels)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def test_a_class_that_makes_a_gate_in_one_block_makes_a_layer_in_another():
    """As in CSATv2, whose spatial attention and transformer blocks use the same class."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Mlp(3)

        def forward(self, x):
            return x * torch.sigmoid(self.mlp(x.mean((2, 3))))[:, :, None, None]

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Mlp(3)

        def forward(self, x):
            return x + self.mlp(x.transpose(1, 3)).transpose(1, 3)

    assert names(nn.Sequential(Gated(), Residual())) == ["1.mlp.act"]


class Windows(nn.Module):
    """Folds 4 x 4 windows into the axis of the images, for two convolutions."""

    def __init__(self):
        super().__init__()
        self.conv, self.inner, self.outer = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        windows = x.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        windows = self.conv(self.inner(self.conv(windows)))
        return self.outer(windows.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "measure",
    [
        lambda model, images, layers: relstab.measure_sensitivity(model, relstab.make_probes(images), layers),
        lambda model, images, layers: relstab.measure_perturbations(model, images, ["noise"], layers=layers, norm=1.0),
    ],
)
def test_layers_that_were_found_and_are_not_by_image_are_left_out_with_a_warning(measure):
    torch.manual_seed(0)
    images, layers = torch.rand(8, 3, 32, 32), "paper"
    with pytest.warns(UserWarning, match="^left out, since they return nothing by image in every batch: inner$") as caught:
        table = measure(Windows(), images, layers)
    assert [warning.filename for warning in caught] == [__file__]
    assert list(table["layer"]) == ["input", "outer", "output"]
    assert table.attrs["paper_layers"] == [["outer", 1]]
    model = Windows()
    model.outer = nn.Identity()
    with pytest.raises(ValueError, match=r"expected layer 'inner' to return a tensor of shape \[2, ...\], .* got shape \(128,"):
        relstab.measure_sensitivity(model, relstab.make_probes(images), layers)


class Shared(nn.Module):
    """One module that is called before the weights, after them, and after a sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x):
        x = self.relu(x)
        y = self.relu(self.conv(x))
        return self.conv(self.relu(x + y))


def test_calls_that_follow_no_weights_are_no_rows():
    torch.manual_seed(0)
    model, probes = Shared(), small_probes()
    assert relstab.find_layers(model, probes.images) == [("relu", 2)]
    table = relstab.measure_sensitivity(model, probes, layers="paper")
    every = relstab.measure_sensitivity(model, probes)
    assert list(table["layer"]) == ["input", "relu", "output"]
    assert list(table["depth"]) == [0, 0.5, 1]
    assert table["D"].tolist() == every["D"].iloc[[0, 3, -1]].tolist()
    assert table.attrs["paper_layers"] == [["relu", 1]]
    assert every.attrs["paper_layers"] == [["relu", 2]]
    by_kind = relstab.measure_perturbations(model, probes.images, ["noise"], norm=1.0, layers="paper")
    assert list(by_kind["layer"]) == ["input", "relu", "output"]


def test_what_makes_a_factor_and_also_reaches_the_output_otherwise_is_a_layer():
    """As in focal modulation: contexts are summed, and their mean over the image is one more term with a factor."""

    class Focal(nn.Module):
        def __init__(self):
            super().__init__()
            self.context, self.gates, self.excite = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            context, gates = functional.gelu(self.context(x)), self.gates(x)
            overall = functional.silu(self.excite(context.mean((2, 3), keepdim=True)))
            return x * (context * gates[:, :1] + overall * gates[:, 1:])

    assert names(Focal()) == ["gelu(1)"]


def test_gated_linear_units_are_layers():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.gate, self.down = nn.Linear(32, 8), nn.Linear(32, 8), nn.Linear(8, 32)

        def forward(self, x):
            return self.down(functional.silu(self.gate(x)) * self.up(x))

    assert names(nn.Sequential(Gated(), Gated())) == ["0.silu(1)", "1.silu(1)"]


# Counted from the architectures' tables: a convolution with an activation is a layer, a residual block's last with its sum.
@pytest.mark.parametrize(
    ("name", "size", "count", "blocks"),
    [
        ("resnet18", 32, 17, 8),
        ("vgg11", 32, 10, None),
        ("googlenet", 32, 3 + 9 * 6, 9 + 3),
        ("inception_v3", 75, 94, None),
        ("densenet121", 32, 1 + 2 * (6 + 12 + 24 + 16) + 3, None),
        ("efficientnet_b0", 32, 1 + 1 + 2 * 15 + 1, 16),
        ("vit_b_32", 224, 12, 12),
        ("convnext_tiny", 32, 18, 18),
        ("squeezenet1_1", 32, 1 + 8 * 3 + 1, 8),
    ],
)
def test_torchvisions_networks_have_as_many_layers_as_their_authors_say(name, size, count, blocks):
    with torch.device("meta"):  # drawing weights takes longer than all the rest, and layers do not depend on them
        model = torchvision.models.get_model(name, weights=None)
    model.to_empty(device="cpu")
    assert len(names(model, size)) == count
    if blocks:
        assert len(names(model, size, "blocks")) == blocks


@pytest.mark.parametrize(
    ("name", "count"), [("efficientnet_b0", 33), ("resnet18", 17), ("convnextv2_atto", 12), ("legacy_seresnet18", 20)]
)
def test_timms_networks(name, count):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name)
    assert len(names(model)) == count
    assert names(model, which="blocks") == [info["module"] for info in model.feature_info]


def test_networks_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(patch_size=8, **config))
    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(patch_size=8, **config))
    for model in (vit, clip):
        assert len(names(model)) == 3
        assert len(names(model, which="blocks")) == 3


def test_the_table_knows_its_layers_also_after_a_change():
    model = torchvision.models.get_model("googlenet", weights=None, aux_logits=False, init_weights=False)
    probes = small_probes()
    relstab.estimate_batch_statistics(model, probes.images)
    table = relstab.measure_sensitivity(model, probes, constant="nan")
    chosen = paper_layers(table.assign(network="mine"), ["network"])
    assert len(chosen) == 57 + 2
    assert list(chosen["k"]) == list(range(59))
    table.attrs.clear()  # as from a file: by kind and order
    assert list(paper_layers(table.assign(network="mine"), ["network"])["layer"]) == list(chosen["layer"])


def test_weighted_layers_without_activations_are_an_error_with_the_cause():
    linear = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(2700, 2))
    with pytest.raises(ValueError, match="2 weighted layers ran, and no activation function after them"):
        names(linear)
    with pytest.raises(ValueError, match="after the 2 weighted layers of the table, '0' the first, found none"):
        paper_layers(relstab.measure_sensitivity(linear, small_probes()).assign(seed=0), ["seed"])
    traced = torch.jit.trace(Functional().eval(), torch.randn(2, 3, 32, 32))
    with pytest.raises(ValueError, match="scripted and traced modules hide what they apply"):
        names(traced)
    with pytest.raises(ValueError, match="no class of modules with children that is repeated"):
        names(linear, which="blocks")
    with pytest.raises(ValueError, match="expected which to be 'paper' or 'blocks', got 'all'"):
        names(linear, which="all")


def test_finding_layers_needs_the_memory_of_a_pass_alone():
    """Each tensor ends once the next ones are computed, as it does without being followed."""
    outputs, living = [], []

    def count(_module, _args, output):
        outputs.append(weakref.ref(output))
        living.append(sum(tensor() is not None for tensor in outputs))

    model = nn.Sequential(*[layer for _ in range(10) for layer in (nn.Conv2d(3, 3, 1), nn.ReLU())])
    for layer in model:
        layer.register_forward_hook(count)
    assert len(relstab.find_layers(model, torch.randn(2, 3, 8, 8))) == 10
    assert max(living) == 2


def test_the_id_of_a_tensor_that_ended_is_free_for_another():
    images = torch.ones(1)
    with Trace(nn.Identity(), images) as trace:
        kept = images + 1
        kept * 2
    assert set(trace._nodes) == {id(images), id(kept)}


def test_finding_layers_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    names(model)
    assert all(module.training and not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
