import collections
import copy
import dataclasses
import math
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import relstab
from relstab.architectures import ARCHITECTURES
from relstab.architectures.torchvision import torchvision
from relstab.layer_sums import LayerAccumulator
from relstab.probes import VERSIONS
from relstab.sensitivity import accumulate_sums
from relstab.sensitivity_table import COLUMNS
from relstab.training.train import _initialise

FIGURES = ["D", "G", "R", "denominator"]


def random_probes(count=12, shape=(3, 16, 16), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return relstab.make_probes(torch.randn(count, *shape, dtype=dtype, generator=generator), generator=generator)


def textbook(clean, deformed, noisy):
    """D, G, R and the denominator by the definition: all P^2 pairs, each image by itself."""
    clean, deformed, noisy = (f.flatten(1).double() for f in (clean, deformed, noisy))
    denominator = torch.cdist(clean, clean, compute_mode="donot_use_mm_for_euclid_dist").square().mean()
    d = (deformed - clean).square().sum(1).mean() / denominator
    g = (noisy - clean).square().sum(1).mean() / denominator
    return [float(value) for value in (d, g, d / g, denominator)]


@pytest.fixture(scope="module")
def reference_network(reference):
    channels = reference.figures["layers"]["channels"]
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * channels),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * channels, 10),
    ).double()
    prefix = "layers_state/"
    model.load_state_dict({key.removeprefix(prefix): reference[key] for key in reference.arrays.files if key.startswith(prefix)})
    return model.eval()


@pytest.mark.parametrize("batch_size", [1, 10, 48])
def test_every_layer_is_that_of_the_reference(reference, reference_network, batch_size):
    probes = relstab.Probes(*(reference[f"layers_x{version}"] for version in ("", "_deformed", "_noisy")))
    table = relstab.measure_sensitivity(reference_network, probes, batch_size=batch_size)
    assert list(table.columns) == COLUMNS
    expected = pd.DataFrame(reference.figures["layers"]["rows"])
    inner = table.iloc[1:-1].reset_index(drop=True)
    assert list(inner["layer"]) == list(expected["layer"])
    assert list(inner["kind"]) == list(expected["kind"])
    np.testing.assert_allclose(inner[FIGURES].to_numpy(), expected[FIGURES].to_numpy(), rtol=1e-10)


@pytest.mark.parametrize("case", range(2))
def test_sums_of_a_representation_are_those_of_the_reference(reference, case):
    clean, perturbed = (reference[f"stability{case}_{name}"].flatten(1) for name in ("f", "f_perturbed"))
    accumulator = LayerAccumulator("f", "f")
    accumulator.keep(accumulator.add(torch.cat([clean, perturbed, perturbed])).numpy())
    sums = accumulator.finish()
    figures = reference.figures[f"stability{case}"]
    assert sums.diffeo.mean() == pytest.approx(figures["numerator_mean"], rel=1e-10)
    assert sums.denominator == pytest.approx(figures["denominator"], rel=1e-10)


def test_r_is_one_at_the_input_and_depth_runs_from_0_to_1(reference_network):
    table = relstab.measure_sensitivity(reference_network, random_probes())
    first, last = table.iloc[0], table.iloc[-1]
    assert first["layer"] == "input"
    assert last["layer"] == "output"
    assert first["R"] == pytest.approx(1, rel=1e-12)
    assert first["D"] == pytest.approx(first["G"], rel=1e-12)
    assert list(table["index"]) == list(range(len(table)))
    np.testing.assert_allclose(table["depth"], np.linspace(0, 1, len(table)), rtol=1e-15)


def assert_agrees_with_the_textbook_method(model, probes, rtol, atol=0.0, **options):
    """Against activations that are copied in each forward pass before the next layer can change them, and all their pairs."""
    table = relstab.measure_sensitivity(model, probes, **options)
    table = table[~table["layer"].str.endswith(")")]  # functions, see test_activations.py
    collected: dict[tuple[str, int], list[torch.Tensor]] = {}
    for version in (probes.images, probes.deformed, probes.noisy):
        calls: dict[str, int] = {}

        def keep(layer, value, calls=calls):
            calls[layer] = calls.get(layer, 0) + 1
            collected.setdefault((layer, calls[layer]), []).append(value.clone())

        leaves = [(layer, module) for layer, module in model.named_modules() if not list(module.children())]
        handles = [
            module.register_forward_hook(lambda _, __, output, layer=layer, keep=keep: keep(layer, output))
            for layer, module in leaves
        ]
        with torch.no_grad():
            keep("input", version)
            keep("output", model.eval()(version))
        for handle in handles:
            handle.remove()
    expected = {key: textbook(*versions) for key, versions in collected.items() if len(versions[0]) == len(probes)}
    calls = {}
    for row in table.to_dict("records"):
        calls[row["layer"]] = calls.get(row["layer"], 0) + 1
        values = expected[row["layer"], calls[row["layer"]]]
        np.testing.assert_allclose([row[figure] for figure in FIGURES], values, rtol=rtol, atol=atol, err_msg=row["layer"])
    assert len(table) == len(expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    ("dtype", "tolerance", "batch_size"), [(torch.float64, 1e-10, 5), (torch.float64, 1e-10, None), (torch.float32, 1e-5, None)]
)
def test_every_architecture_agrees_with_the_textbook_method(name, dtype, tolerance, batch_size):
    model = relstab.build_model(name, (1, 28, 28), 10, 0.1)
    # From torch's own initialization, VGG19 gives the same for all images, to the last digit of float32.
    _initialise(model, ARCHITECTURES[name].recipe.get("initialization", "default"))
    model = model.to(dtype)
    probes = random_probes(shape=(1, 28, 28), dtype=dtype)
    relstab.estimate_batch_statistics(model, probes.images)
    assert_agrees_with_the_textbook_method(model, probes, tolerance, batch_size=batch_size)


MODELS = torchvision.models
TORCHVISION = {
    "densenet": lambda: MODELS.DenseNet(8, (2, 2), 16, num_classes=10),
    "googlenet": lambda: MODELS.GoogLeNet(num_classes=10, init_weights=False),
    "mobilenet": lambda: MODELS.mobilenet_v3_small(num_classes=10),
    "squeezenet": lambda: MODELS.squeezenet1_1(num_classes=10),
    "swin": lambda: MODELS.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [7, 7], num_classes=10),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_models_agree_with_the_textbook_method(name):
    """Shared and in-place activations, concatenations, squeeze and excitation, windows of attention; untrained, so in float64."""
    model = TORCHVISION[name]().double()
    probes = random_probes(4, (3, 64, 64))
    relstab.estimate_batch_statistics(model, random_probes(16, (3, 64, 64)).images)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out, since they return nothing by image")  # attention within windows
        warnings.filterwarnings("ignore", "2 batch norms, 'aux1.conv.bn' the first, never saw")  # called in training only
        assert_agrees_with_the_textbook_method(model, probes, 1e-9, batch_size=3)


class ChangesBetween(nn.Module):
    """A convolution whose output is changed in place, as autograd does not see it, before batch norm reads it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        x.data.clamp_(min=0)
        x.numpy()[:, 0] *= 2
        return self.norm(x)


@pytest.mark.parametrize("kind", ["plain", "changed before", "another forward", "a hook after"])
def test_batch_norms_after_convolutions_are_measured_from_their_own_output(kind):
    model = (
        ChangesBetween().double() if kind == "changed before" else nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    )
    probes = random_probes()
    relstab.estimate_batch_statistics(model, probes.images)
    norm = [*model.children()][1]
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    if kind == "another forward":
        norm.forward = lambda x: x.sin()
    if kind == "a hook after":
        norm.register_forward_hook(lambda _, __, output: output.square())
    assert_agrees_with_the_textbook_method(model, probes, 1e-11)


class Precisions(nn.Module):
    """Notes how torch may round float32 in each forward pass."""

    def __init__(self):
        super().__init__()
        self.norm, self.seen = nn.BatchNorm2d(3), []

    def forward(self, images):
        if hasattr(torch.backends, "fp32_precision"):
            exact = torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
        else:  # torch before 2.9
            exact = torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
        self.seen.append(exact)
        return self.norm(images)


@pytest.mark.parametrize(
    "measure",
    [
        lambda model, probes: relstab.measure_sensitivity(model, probes, layers=["input", "output"]),
        lambda model, probes: relstab.measure_sensitivity(model, probes, layers=["output"], batch_norm="per_version"),
        lambda model, probes: relstab.estimate_batch_statistics(model, probes.images),
        lambda model, probes: relstab.measure_perturbations(model, probes.images, ["noise"], 0.5, layers=["output"]),
        lambda model, probes: relstab.lie_derivatives(model, probes.images, ["noise"], layers=["output"]),
    ],
)
def test_no_measurement_rounds_float32(measure):
    """To TF32, which torch's own flags allow to convolutions, and others to products."""
    model, probes = Precisions(), random_probes()
    model.norm.running_mean.fill_(0.1)
    measure(model.double(), probes)
    assert set(model.seen) == {True}


def test_in_place_activations_do_not_reach_the_layer_before():
    convolution = nn.Conv2d(3, 4, 3)
    probes = random_probes()
    in_place, plain = (nn.Sequential(convolution, nn.ReLU(inplace=flag)).double() for flag in (True, False))
    pd.testing.assert_frame_equal(
        relstab.measure_sensitivity(in_place, probes)[FIGURES], relstab.measure_sensitivity(plain, probes)[FIGURES]
    )


def test_every_call_of_a_shared_module_is_a_row():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu).double()
    table = relstab.measure_sensitivity(model, random_probes(), batch_size=5)
    assert list(table["layer"]) == ["input", "0", "1", "2", "1", "output"]
    assert table["D"].iloc[4] == table["D"].iloc[5]
    assert table["D"].iloc[2] != table["D"].iloc[4]


class TwoOutputs(nn.Module):
    def forward(self, x):
        return {"mean": x.mean((2, 3)), "rest": (x.amax((2, 3)), torch.zeros(len(x), dtype=torch.int64))}


def test_outputs_in_tuples_and_dicts_count_together():
    probes = random_probes()
    with pytest.warns(UserWarning, match=r"the output is 2 tensors \(mean, rest\), which are measured as one"):
        table = relstab.measure_sensitivity(nn.Sequential(TwoOutputs()), probes)
    versions = [torch.cat([v.mean((2, 3)), v.amax((2, 3))], 1) for v in (probes.images, probes.deformed, probes.noisy)]
    np.testing.assert_allclose(table[FIGURES].iloc[1], textbook(*versions), rtol=1e-10)


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    features: torch.Tensor


class TwoParts(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(4, 3)

    def forward(self, x):
        return self.kind(logits=self.layer(x), features=x.square())


@pytest.mark.parametrize("kind", [dict, Result, collections.namedtuple("Result", "logits features")])
def test_a_part_of_the_output_can_be_chosen(generator, kind):
    model = TwoParts(kind).double()
    probes = relstab.Probes(*torch.randn(3, 6, 4, dtype=torch.float64, generator=generator))
    part = (lambda result: result["features"]) if kind is dict else (lambda result: result.features)
    for output, expected in (("logits", model.layer), (part, torch.square)):
        with torch.no_grad():
            versions = [expected(getattr(probes, version)) for version in VERSIONS]
        table = relstab.measure_sensitivity(model, probes, output=output)
        np.testing.assert_allclose(table[FIGURES].iloc[-1].to_numpy(float), textbook(*versions), rtol=1e-10)
    with pytest.raises(ValueError, match=r"expected output to be one of logits, features in .*, got 'logit'"):
        relstab.measure_sensitivity(model, probes, output="logit")


def test_batch_norm_that_never_saw_an_image_warns():
    model = relstab.build_model("vgg11_bn", (3, 16, 16), 10, 0.1).double()
    with pytest.warns(UserWarning, match="8 batch norms, 'features.1' the first, never saw an image"):
        relstab.measure_sensitivity(model, random_probes())
    relstab.estimate_batch_statistics(model, random_probes().images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relstab.measure_sensitivity(model, random_probes())


def test_modules_may_be_called_input_and_output():
    model = nn.Sequential()
    model.add_module("input", nn.Conv2d(3, 4, 3))
    model.add_module("output", nn.Flatten())
    model.add_module("last", nn.Tanh())
    table = relstab.measure_sensitivity(model.double(), random_probes())
    assert list(zip(table["layer"], table["kind"], strict=True)) == [
        ("input", "input"), ("input", "Conv2d"), ("output", "Flatten"), ("last", "Tanh"), ("output", "output"),
    ]  # fmt: skip
    assert table["R"].iloc[0] == pytest.approx(1)
    assert table["R"].iloc[1] != pytest.approx(1)


class WithPositions(nn.Module):
    """Leaves that give nothing by image: an embedding of positions, and the state of an LSTM."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(16, 16)
        self.rows = nn.LSTM(16, 5, batch_first=True)
        self.read_out = nn.Linear(5, 3)

    def forward(self, x):
        sequence, _ = self.rows(x.mean(1) + self.positions(torch.arange(16)))
        return self.read_out(sequence[:, -1])


def test_leaves_that_give_nothing_by_image_are_left_out_with_a_warning():
    model = WithPositions().double()
    with pytest.warns(UserWarning, match="left out, since they return nothing by image in every batch: positions, rows"):
        table = relstab.measure_sensitivity(model, random_probes())
    assert list(table["layer"]) == ["input", "read_out", "output"]
    with pytest.raises(ValueError, match=r"layer 'positions' .* got shape \(16, 16\) for 2 images"):
        relstab.measure_sensitivity(model, random_probes(), layers=["positions"])


class Tokens(nn.Module):
    """Tokens are the first axis, images the second, and tokens are three times as many as the images of a batch."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Linear(12, 5)
        self.read_out = nn.Linear(5, 3)

    def forward(self, x):
        return self.read_out(torch.relu(self.rows(x.mean(1).permute(1, 0, 2))).mean(0))


def test_a_layer_is_by_image_only_if_it_follows_the_size_of_the_batch():
    model = Tokens().eval()
    probes = relstab.make_probes(torch.randn(8, 1, 12, 12), 0.5)
    for batch_size in (4, 8):
        with pytest.warns(UserWarning, match="left out, since they return nothing by image in every batch: rows"):
            table = relstab.measure_sensitivity(model, probes, batch_size=batch_size)
        assert list(table["layer"]) == ["input", "read_out", "output"]
    with pytest.raises(ValueError, match="expected layer 'rows' to return"):
        relstab.measure_sensitivity(model, probes, ["rows"], batch_size=4)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU()).double()
    model(random_probes().images)  # running statistics of its own
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    relstab.measure_sensitivity(model, random_probes())
    with pytest.raises(ValueError, match="NaN"):
        relstab.measure_sensitivity(model, relstab.Probes(*[torch.full((3, 3, 8, 8), math.nan, dtype=torch.float64)] * 3))
    assert [module.training for module in model] == [True, False, True, True]
    assert not any(module._forward_hooks for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_passes_of_two_images_and_of_one_come_before_the_measurement():
    """The first finds the layers and which of them are by image; its output is compared with that of the second."""
    sizes = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    model.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    table = relstab.measure_sensitivity(model, random_probes(8), batch_size=8)
    assert sizes == [2, 1, 24]
    assert table.attrs["paper_layers"] == [["1", 1]]


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_distances_from_the_mean_use_the_images_before(generator, mean):
    """|f - e|^2 less the variance of e has the mean |f - m|^2; e is the mean of the images before, or of a larger batch."""
    values = torch.randn(12, 5, dtype=torch.float64, generator=generator) + mean
    accumulator, start = LayerAccumulator("f", "f", perturbations=1), 0
    total = (values - values.mean(0)).square().sum()
    expected = []
    for images in (2, 5, 3, 2):
        batch = values[start : start + images]
        accumulator.keep(accumulator.add(torch.cat([batch, batch])).numpy())
        own = start < images
        distances = (batch - (batch if own else values[:start]).mean(0)).square().sum(1)
        expected.append(distances + (1 / images if own else -1 / start) * total / 11)
        start += images
    sums = accumulator.finish()
    np.testing.assert_allclose(sums.spread, torch.cat(expected), rtol=1e-10)
    assert sums.denominator == pytest.approx(2 * float(total) / 12, rel=1e-12)


def test_batches_of_probes_are_one_set(reference_network):
    probes = random_probes(10)
    whole = relstab.measure_sensitivity(reference_network, probes)
    parts = relstab.measure_sensitivity(reference_network, iter([probes[:4], probes[4:]]))
    np.testing.assert_allclose(parts[FIGURES].to_numpy(), whole[FIGURES].to_numpy(), rtol=1e-12)


def test_layers_can_be_chosen(reference_network):
    table = relstab.measure_sensitivity(reference_network, random_probes(), layers=["7", "output", "1"])
    assert list(table["layer"]) == ["1", "7", "output"]
    assert list(relstab.measure_sensitivity(reference_network, random_probes(), layers="7")["layer"]) == ["7"]
    model = nn.Sequential(collections.OrderedDict(a=nn.Sequential(nn.Flatten(), nn.Identity()), b=nn.Tanh())).double()
    for layers, expected in (("a*", ["a.0", "a.1"]), (["a", "*put"], ["input", "a", "output"]), (["[!a]"], ["b"])):
        assert list(relstab.measure_sensitivity(model, random_probes(), layers=layers)["layer"]) == expected
    with pytest.raises(ValueError, match=r"patterns of their names, got 'c\.\*'"):
        relstab.measure_sensitivity(model, random_probes(), layers=["c.*"])
    with pytest.raises(ValueError, match=r"expected layers to be modules .*, got 'classifer' \(nearest: 'classifier'\)"):
        relstab.measure_sensitivity(relstab.build_model("lenet", (3, 16, 16), 10), random_probes(), layers=["classifer"])


@settings(max_examples=10)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 10_000))
def test_scaling_and_rotating_a_representation_changes_nothing(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(3, 8, 6, dtype=torch.float64, generator=generator)  # versions, images, features
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    shift = torch.randn(6, dtype=torch.float64, generator=generator)
    tables = [relstab.measure_sensitivity(nn.Identity(), relstab.Probes(*f)) for f in (base, scale * base @ rotation + shift)]
    columns = ["D", "G", "R", "D_sem", "G_sem", "R_sem"]
    np.testing.assert_allclose(tables[1][columns].to_numpy(), tables[0][columns].to_numpy(), rtol=1e-8)


def test_a_linear_network_has_its_closed_form(generator):
    """f = W x and eta = e z with z standard normal: G = e^2 |W|^2 / (2 tr(W C W')), with C the covariance of x.

    Numerator and denominator are means over 4,000 images of squares of relative spread at most sqrt(2): 4 standard errors of
    their ratio are at most 4 * 2 / sqrt(4000) = 0.13.
    """
    weight = torch.randn(5, 20, dtype=torch.float64, generator=generator)
    factor = torch.randn(20, 20, dtype=torch.float64, generator=generator) / 4
    images = torch.randn(4000, 20, dtype=torch.float64, generator=generator) @ factor
    noisy = images + 0.3 * torch.randn(4000, 20, dtype=torch.float64, generator=generator)
    model = nn.Linear(20, 5, bias=False).double()
    model.weight.data = weight
    table = relstab.measure_sensitivity(model, relstab.Probes(images, noisy, noisy), layers=["output"])
    expected = 0.3**2 * weight.square().sum() / (2 * torch.trace(weight @ factor.T @ factor @ weight.T))
    assert table["G"].iloc[0] == pytest.approx(float(expected), rel=0.13)


def test_circular_convolutions_and_global_pooling_ignore_whole_shifts(generator):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    images = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=generator)
    noisy = images + torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=generator)
    table = relstab.measure_sensitivity(model, relstab.Probes(images, images.roll((2, 3), (2, 3)), noisy))
    assert table["D"].iloc[0] > 0.1
    assert table["D"].iloc[-1] < 1e-25


def _jackknife(clean, deformed, noisy):
    """Standard errors of D, G and R by leaving out one image at a time, from the definition."""
    count = len(clean)
    values = []
    for left_out in range(count):
        keep = [i for i in range(count) if i != left_out]
        d, g, r, _ = textbook(clean[keep], deformed[keep], noisy[keep])
        values.append((d, g, r))
    values = np.array(values)
    return np.sqrt((count - 1) / count * np.square(values - values.mean(0)).sum(0))


def measured_errors(probes, **options):
    return relstab.measure_sensitivity(nn.Identity(), probes, **options)[["D_sem", "G_sem", "R_sem"]].iloc[0]


@pytest.mark.parametrize("batch_size", [7, 25, 100, None])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_standard_errors_agree_with_the_jackknife(generator, batch_size, mean):
    """The two differ at the order 1 / P, and by the running mean of the spread: within 4% at P = 100 (1% to 3% here).

    The mean of 30 takes distances from the mean, 0 from the origin.
    """
    clean, one, two = torch.randn(3, 100, 15, dtype=torch.float64, generator=generator)
    clean = clean + mean
    size = torch.rand(100, 1, dtype=torch.float64, generator=generator)
    deformed, noisy = clean + size * one, clean + 2 * size * two
    measured = measured_errors(relstab.Probes(clean, deformed, noisy), batch_size=batch_size)
    np.testing.assert_allclose(measured, _jackknife(clean, deformed, noisy), rtol=0.04)


def test_images_sorted_by_class_have_the_same_standard_errors(generator):
    """Ten classes far apart, one after the other, in batches of one class: the mean so far would be far from the mean of all."""
    centres = 3 * torch.randn(10, 15, dtype=torch.float64, generator=generator)
    scale = torch.linspace(0.5, 2, 10, dtype=torch.float64).repeat_interleave(20)[:, None]
    clean = centres.repeat_interleave(20, 0) + torch.randn(200, 15, dtype=torch.float64, generator=generator)
    one, two = torch.randn(2, 200, 15, dtype=torch.float64, generator=generator)
    probes = relstab.Probes(clean, clean + scale * one, clean + two / scale)
    np.testing.assert_allclose(
        measured_errors(probes, batch_size=20), _jackknife(probes.images, probes.deformed, probes.noisy), rtol=0.04
    )


def test_standard_errors_of_many_dimensions_do_not_see_the_batches(generator):
    """In 2,000 dimensions all images are equally far apart; a mean of n images adds variance / n to each distance."""
    clean, one, two = torch.randn(3, 60, 2000, dtype=torch.float64, generator=generator)
    probes = relstab.Probes(clean, clean + one, clean + two)
    whole = measured_errors(probes, batch_size=60)
    np.testing.assert_allclose(measured_errors(probes, batch_size=4), whole, rtol=0.1)
    np.testing.assert_allclose(whole, _jackknife(probes.images, probes.deformed, probes.noisy), rtol=0.04)


class Blocks(nn.Module):
    """As many layers as there are blocks of features; each is the images' features in one block."""

    def __init__(self, count):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity() for _ in range(count)])

    def forward(self, x):
        for block, features in zip(self.blocks, x.chunk(len(self.blocks), 1), strict=True):
            block(features)
        return x


@pytest.mark.parametrize("batch_size", [50, None])
def test_intervals_cover_the_truth(batch_size):
    """Normal representations with known D and G: of 1,000 intervals of 1.96 standard errors, 93% to 97% hold the truth.

    The truth is that of the estimator's expectation: the mean over all P^2 pairs is (P - 1) / P of the expected squared distance.
    The binomial standard error of 95% over 1,000 is 0.7%.
    """
    count, features, layers, repetitions = 200, 10, 50, 20
    generator = torch.Generator().manual_seed(5)
    scale = count / (count - 1)
    truth = np.array([0.09 / 2 * scale, 0.25 / 2 * scale, 0.09 / 0.25])
    hits = np.zeros(3)
    for _ in range(repetitions):
        clean, one, two = torch.randn(3, count, layers * features, dtype=torch.float64, generator=generator)
        probes = relstab.Probes(clean, clean + 0.3 * one, clean + 0.5 * two)
        table = relstab.measure_sensitivity(Blocks(layers), probes, layers="blocks.*", batch_size=batch_size)
        measured, errors = table[["D", "G", "R"]].to_numpy(float), table[["D_sem", "G_sem", "R_sem"]].to_numpy(float)
        assert measured.shape == (layers, 3)
        hits += (np.abs(measured - truth) < 1.96 * errors).sum(0)
    assert (hits / (layers * repetitions) > 0.93).all(), hits
    assert (hits / (layers * repetitions) < 0.97).all(), hits


def test_a_large_mean_loses_no_digits(generator):
    """2 (mean |f|^2 - |mean f|^2) of float32 activations far from the origin, where the plain difference has no digit left."""
    base = torch.randn(3, 40, 8, generator=generator)
    near, far = (relstab.measure_sensitivity(nn.Identity(), relstab.Probes(*(base + shift))) for shift in (0.0, 4096.0))
    np.testing.assert_allclose(far["denominator"], near["denominator"], rtol=1e-3)


def test_small_differences_in_wide_layers_are_no_constant(generator):
    """Relative spread 3e-5 over 150,528 features is far above float32's rounding."""
    base = 1 + 3e-5 * torch.randn(3, 6, 150_528, generator=generator)
    table = relstab.measure_sensitivity(nn.Identity(), relstab.Probes(*base))
    assert table["D"].iloc[0] == pytest.approx(1 * 6 / 5, rel=0.05)


class Dead(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 3), 0.1, dtype=x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_representation_is_nan_with_one_warning_or_refused(dtype):
    model = nn.Sequential(nn.Flatten(), *(Dead() for _ in range(60)))
    probes = random_probes(dtype=dtype)
    with pytest.warns(UserWarning, match="rows of NaN, .* all images: '1', '2'") as caught:
        table = relstab.measure_sensitivity(model, probes)
    assert len(caught) == 1
    assert len(str(caught[0].message)) == 200
    assert caught[0].filename == __file__
    assert table.loc[1, "R"] > 0
    assert table.loc[2:, ["D", "G", "R", "D_median", "R_median"]].isna().all(axis=None)
    assert (table.loc[2:, "denominator"] == 0).all()
    with pytest.raises(ValueError, match="the same one for all images from '1', '2'"):
        relstab.measure_sensitivity(model, probes, constant="raise")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_activations_that_are_not_finite_name_the_layer(bad):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.where(x > 1, bad, x)

    model = nn.Sequential(nn.Flatten(), nn.Identity(), Broken())
    with pytest.raises(ValueError, match=r"got NaN, infinite ones .* from layer '2' \(Broken\)"):
        relstab.measure_sensitivity(model, random_probes())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relstab.measure_sensitivity(nn.Identity(), random_probes(1)), r"at least 2 images, .* got 1 image\(s\)"),
        (lambda: relstab.measure_sensitivity(nn.Identity(), []), r"at least 2 images, .* got 0 image\(s\)"),
        (lambda: relstab.measure_sensitivity(nn.Identity(), random_probes(), batch_size=0), "expected batch_size .*, got 0"),
        (lambda: relstab.measure_sensitivity(nn.Flatten(0), random_probes()), r"got shape \(13824,\) for 18 images"),
        (lambda: relstab.measure_sensitivity(nn.Identity(), random_probes(), constant="skip"), "'nan' or 'raise', got 'skip'"),
        (lambda: relstab.measure_sensitivity(nn.Identity(), random_probes(), batch_norm="none"), "'per_version', got 'none'"),
        (lambda: relstab.measure_sensitivity(print, random_probes()), "expected model to be a torch.nn.Module, got builtin"),
        (lambda: relstab.measure_sensitivity(nn.Identity(), (torch.zeros(3, 4),) * 3), "got an iterable of Tensor"),
        (lambda: relstab.measure_sensitivity(nn.Identity(), [(torch.zeros(3, 4),) * 3]), "got an iterable of tuple"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bfloat16_networks_are_measured():
    """Eight bits of mantissa: D and G agree with float32 to a few percent where the perturbation is large."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10))
    probes = random_probes(dtype=torch.float32)
    exact = relstab.measure_sensitivity(model, probes)
    rough = relstab.measure_sensitivity(model.to(torch.bfloat16), probes)
    np.testing.assert_allclose(rough[["D", "G"]].to_numpy(), exact[["D", "G"]].to_numpy(), rtol=0.05)


def test_sums_do_not_depend_on_the_batches(generator):
    """Segments with distances from the origin and from the mean, wider than a block of the norms and not a multiple of it."""
    for mean in (0.0, 5.0):
        clean, one, two = torch.randn(3, 37, 9001, dtype=torch.float64, generator=generator)
        probes = relstab.Probes(clean + mean, clean + mean + 0.1 * one, clean + mean + two)
        expected = textbook(probes.images, probes.deformed, probes.noisy)
        for batch_size in (1, 2, 5, 37, None):
            table = relstab.measure_sensitivity(nn.Identity(), probes, batch_size=batch_size)
            np.testing.assert_allclose(table[FIGURES].iloc[0], expected, rtol=1e-11)


def test_sums_of_images_stand_in_the_order_of_the_probes(generator):
    """The images go through in random order; image i is deformed by i."""
    clean = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    step = torch.arange(9, dtype=torch.float64)[:, None]
    layer = accumulate_sums(nn.Identity(), relstab.Probes(clean, clean + step, clean - step / 2), batch_size=2)[0]
    np.testing.assert_allclose(layer.diffeo, 4 * np.arange(9.0) ** 2, rtol=1e-12, atol=1e-24)
    np.testing.assert_allclose(layer.noise, np.arange(9.0) ** 2, rtol=1e-12, atol=1e-24)


def test_representations_in_channels_last_are_the_same():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)).double()
    probes = random_probes()
    plain = relstab.measure_sensitivity(model, probes)
    last = relstab.measure_sensitivity(model.to(memory_format=torch.channels_last), probes)
    np.testing.assert_allclose(last[FIGURES].to_numpy(), plain[FIGURES].to_numpy(), rtol=1e-12)


def test_inference_mode_changes_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).double()
    probes = random_probes()
    relstab.estimate_batch_statistics(model, probes.images)
    expected = relstab.measure_sensitivity(model, probes)
    with torch.inference_mode():
        table = relstab.measure_sensitivity(model, probes)
    np.testing.assert_allclose(table[FIGURES].to_numpy(), expected[FIGURES].to_numpy(), rtol=1e-12)


def test_the_network_inside_a_wrapper_is_measured():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    probes = random_probes()
    expected = relstab.measure_sensitivity(model, probes)
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        pd.testing.assert_frame_equal(relstab.measure_sensitivity(wrapped, probes), expected)


class Sometimes(nn.Module):
    """Calls a layer for batches of 6 images alone."""

    def __init__(self):
        super().__init__()
        self.always, self.never, self.sometimes = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        x = self.always(x)
        return x + self.sometimes(x) if len(x) == 6 else x


def test_layers_that_are_not_called_with_every_image_are_named(generator):
    model = Sometimes().double()
    probes = relstab.Probes(*torch.randn(3, 5, 4, dtype=torch.float64, generator=generator))
    with pytest.warns(UserWarning, match="left out, since they return nothing by image in every batch: sometimes"):
        table = relstab.measure_sensitivity(model, probes, batch_size=2)
    assert list(table["layer"]) == ["input", "always", "output"]
    with pytest.raises(ValueError, match="got 'never', which it never calls"):
        relstab.measure_sensitivity(model, probes, layers=["always", "never"])


def test_batch_norm_without_running_statistics_warns():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).double()
    with pytest.warns(UserWarning, match="1 batch norms, '1' the first, keep no running statistics"):
        relstab.measure_sensitivity(model, random_probes())


def separate_passes(model, probes):
    """D and G of every batch norm and of the output, from three passes in which batch norm is in training mode."""
    model = copy.deepcopy(model).eval()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    collected = {name: [] for name in [*norms, "output"]}
    for name, norm in norms.items():
        norm.train()
        norm.register_forward_hook(lambda _, __, output, name=name: collected[name].append(output.clone()))
    with torch.no_grad():
        for version in VERSIONS:
            collected["output"].append(model(getattr(probes, version)))
    return {name: textbook(*versions) for name, versions in collected.items()}


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("vgg11_bn", torch.float64, 1e-11), ("vgg11_bn", torch.float32, 2e-4), ("resnet18", torch.float64, 1e-11)],
)
def test_statistics_by_version_are_those_of_three_passes_in_training_mode(name, dtype, tolerance):
    """In one batch, in several, and from a list of probes; the network and the random state stay as they were."""
    torch.manual_seed(0)
    model = relstab.build_model(name, (3, 16, 16), 10, 0.05).to(dtype)
    probes = random_probes(9, dtype=dtype)
    expected = separate_passes(model, probes)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    sizes = []
    handle = model.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])), always_call=True)
    for images, batch_size in ((probes, None), (probes, 4), ([probes[:4], probes[4:]], 3)):
        sizes.clear()
        table = relstab.measure_sensitivity(model, images, batch_norm="per_version", batch_size=batch_size).set_index("layer")
        for layer, values in expected.items():
            np.testing.assert_allclose(table.loc[layer, FIGURES].to_numpy(float), values, rtol=tolerance, err_msg=layer)
        if batch_size is not None:
            assert max(sizes) == 3 * batch_size  # no pass holds more images than the measurement does
    handle.remove()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training and "forward" not in vars(module) for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_statistics_by_version_have_the_biased_variance(generator):
    """A batch norm takes mean and size of each version away: with sum (x - mean)^2 / N, their mean square is 1."""
    images = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    seen = []
    norm = nn.BatchNorm1d(2, eps=0).double()
    norm.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    relstab.measure_sensitivity(norm, relstab.Probes(images, 3 * images + 1, -images), batch_size=5, batch_norm="per_version")
    versions = seen[-1].unflatten(0, (3, 5))
    torch.testing.assert_close(versions.square().mean(1), torch.ones(3, 2, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(versions[1], versions[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(versions[2], -versions[0], rtol=0, atol=1e-12)


class Unusual(nn.BatchNorm2d):
    """As timm's: a batch norm with an activation, called twice, without running statistics of its own."""

    def forward(self, x):
        return super().forward(x).relu()


def test_statistics_by_version_keep_what_a_batch_norm_does_besides():
    norm = Unusual(4, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 4, 3), norm).double()
    probes = random_probes(5)
    relu = relstab.measure_sensitivity(
        nn.Sequential(model[0], nn.BatchNorm2d(4), nn.ReLU(), model[2], nn.BatchNorm2d(4), nn.ReLU()).double(),
        probes,
        layers="output",
        batch_norm="per_version",
    )
    for batch_size in (2, None):
        table = relstab.measure_sensitivity(model, probes, layers="output", batch_norm="per_version", batch_size=batch_size)
        np.testing.assert_allclose(table[FIGURES].to_numpy(float), relu[FIGURES].to_numpy(float), rtol=1e-11)
    assert norm.running_mean is None


def test_statistics_by_version_need_probes_that_can_be_read_again():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    with pytest.raises(ValueError, match="reads them several times, got an iterator"):
        relstab.measure_sensitivity(model, iter([random_probes()]), batch_norm="per_version")


def test_medians_are_those_of_the_2021_paper(generator):
    """Of each coordinate over the images, summed, over the median of all P^2 distances; the lower of two in the middle."""
    probes = relstab.Probes(*torch.randn(3, 8, 5, dtype=torch.float64, generator=generator))
    row = relstab.measure_sensitivity(nn.Identity(), probes, batch_size=3).iloc[-1]
    pairs = sorted(float((x - y).square().sum()) for x in probes.images for y in probes.images)[31]
    d, g = (
        sum(sorted(column)[3] for column in (version - probes.images).square().T.tolist()) / pairs
        for version in (probes.deformed, probes.noisy)
    )
    np.testing.assert_allclose(row[["D_median", "G_median", "R_median"]].to_numpy(float), [d, g, d / g], rtol=1e-12)
    inner = relstab.measure_sensitivity(nn.Sequential(nn.Tanh()), probes).iloc[:2]
    assert inner[["D_median", "G_median", "R_median"]].isna().all(axis=None)


def test_the_table_says_what_made_it(generator):
    probes = relstab.make_probes(torch.rand(5, 1, 12, 12, generator=generator), 0.7, 4)
    attributes = relstab.measure_sensitivity(nn.Flatten(), probes).attrs
    assert attributes.pop("torch_version") == torch.__version__
    assert attributes == {
        "displacement": 0.7, "cutoff": 4, "interpolation": "bilinear", "P": 5, "batch_norm": "running",
        "relstab_version": relstab.__version__,
    }  # fmt: skip


def test_models_without_layers_to_watch_say_what_works():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    probes = random_probes(dtype=torch.float32)
    expected = relstab.measure_sensitivity(model, probes)
    for compiled in (torch.jit.script(model), torch.jit.trace(model, probes.images)):
        with pytest.raises(ValueError, match=r"measure the module that it was made from, or layers=\['input', 'output'\]"):
            relstab.measure_sensitivity(compiled, probes)
        table = relstab.measure_sensitivity(compiled, probes, layers=["input", "output"])
        np.testing.assert_allclose(table["D"], expected["D"].iloc[[0, -1]], rtol=1e-6)


@pytest.mark.skipif(torch.__version__ < (2, 9), reason="torch.export.unflatten of torch 2.5 and 2.6 fails on a Sequential")
def test_an_exported_program_is_measured_unflattened():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    probes = random_probes(dtype=torch.float32)
    batch = {"input": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (probes.images,), dynamic_shapes=batch)
    with pytest.raises(ValueError, match=r"got ExportedProgram; torch.export.unflatten\(program\) is one"):
        relstab.measure_sensitivity(program, probes)
    table = relstab.measure_sensitivity(torch.export.unflatten(program), probes)
    np.testing.assert_allclose(table["D"], relstab.measure_sensitivity(model, probes)["D"], rtol=1e-6)


PEAK = """
import resource, sys, torch, relstab
torch.manual_seed(0)
model = relstab.build_model("vgg11_bn", (3, 32, 32), 10).eval()
images = torch.randn(int(sys.argv[1]), 3, 32, 32)
relstab.estimate_batch_statistics(model, images[:50], batch_size=10)
probes = relstab.Probes(images, images + 0.1 * torch.randn_like(images), images + 0.1 * torch.randn_like(images))
with torch.no_grad():
    model(images[:2])  # loads what a forward pass loads
import pandas
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
relstab.measure_sensitivity(model, probes)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kB on Linux")
def test_memory_does_not_grow_with_the_images():
    """Beyond the network and the probes: at most 500 MB for VGG11 with batch norm, and no more for 4 times the images.

    A batch has 62 images, whose largest activations take 49 MB; several are alive or lie unused between others, and numba takes
    115 MB. 100 MB are two such activations: what the allocator may scatter, far less than those of 750 images, 600 MB each.
    """
    peaks = [float(subprocess.check_output([sys.executable, "-c", PEAK, str(count)], text=True)) for count in (250, 1000)]
    assert max(peaks) < 500
    assert peaks[1] < peaks[0] + 100


class Functional(nn.Module):
    """Activations that are functions, beside a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, images):
        return self.linear(torch.relu(self.norm(self.convolution(images))).mean((2, 3)))


@pytest.mark.parametrize("batch_size", [2, None])
def test_functions_are_layers_also_with_the_statistics_of_each_version(batch_size):
    model, probes = Functional().double(), random_probes()
    modules = nn.Sequential(model.convolution, model.norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.linear)
    options = {"batch_norm": "per_version", "batch_size": batch_size}
    table = relstab.measure_sensitivity(model, probes, **options)
    assert table["layer"].tolist() == ["input", "convolution", "norm", "relu(1)", "linear", "output"]
    expected = relstab.measure_sensitivity(modules, probes, **options)
    columns = ["D", "G", "R", "D_sem", "G_sem", "R_sem"]
    np.testing.assert_allclose(table.loc[3, columns].to_numpy(float), expected.loc[3, columns].to_numpy(float), rtol=1e-10)
    assert table.attrs["paper_layers"] == [["relu(1)", 1]]
    for part in (probes, [probes]):
        chosen = relstab.measure_sensitivity(model, part, "paper", **options)
        assert chosen["layer"].tolist() == ["input", "relu(1)", "output"]
    modular = relstab.measure_sensitivity(modules, probes, **options)
    assert modular["layer"].tolist() == ["input", "0", "1", "2", "3", "4", "5", "output"]


def test_the_layers_of_the_paper_are_kept_in_a_file(tmp_path):
    model, probes = Functional().double(), random_probes()
    with pytest.warns(UserWarning, match="never saw an image"):
        relstab.measure_sensitivity(model, iter([probes]), "paper", keep_activations=tmp_path / "kept.h5", keep_layers=["relu*"])
    with h5py.File(tmp_path / "kept.h5") as file:
        assert list(file) == ["relu(1)"]
        assert len(file["relu(1)/images"]) == len(probes)
