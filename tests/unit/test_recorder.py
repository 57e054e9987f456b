"""The layout in which images go through a network, and layers that return what the layer before returned."""

import numpy as np
import pytest
import torch
from torch import nn

import relstab
from relstab import recorder
from relstab.sensitivity import accumulate_sums

FIGURES = ["D", "G", "R", "denominator"]
ERRORS = ["D_sem", "G_sem", "R_sem"]


def random_probes(count=12, shape=(3, 16, 16), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return relstab.make_probes(torch.randn(count, *shape, dtype=dtype, generator=generator), generator=generator)


def without(monkeypatch, what):
    """The measurement without a shortcut."""
    if what == "channels_last":
        monkeypatch.setattr(recorder, "_is_faster_in_channels_last", lambda *_: False)
    else:
        monkeypatch.setattr(recorder._LastSummed, "is_in", lambda *_: False)


class Flattening(nn.Module):
    """Its ``view`` needs images that are contiguous."""

    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 10)

    def forward(self, images):
        return self.linear(self.convolution(images).relu().view(len(images), -1))


class OrderOfMemory(Flattening):
    """Reads memory in its order, which torch forbids and cannot prevent: another layout gives other numbers."""

    def forward(self, images):
        return self.linear(self.convolution(images).relu().as_strided((len(images), 4 * 14 * 14), (4 * 14 * 14, 1)))


CONVOLUTIONS = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(),
    nn.Linear(200, 10),
)  # fmt: skip


def layouts(model, probes):
    """Whether each batch of images was in channels_last."""
    seen = []
    handle = model.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last) and not args[0].is_contiguous())
    )
    relstab.measure_sensitivity(model, probes)
    handle.remove()
    return seen


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_convolutions_in_float32_get_channels_last():
    probes = random_probes(8)
    relstab.estimate_batch_statistics(CONVOLUTIONS, probes.images)
    # The trial, the check beside it in the images' own layout, the measurement.
    assert layouts(CONVOLUTIONS, probes) == [True, False, True]
    assert not any(layouts(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double(), random_probes(dtype=torch.float64)))
    assert not any(layouts(nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.ReLU()), probes))


@pytest.mark.parametrize("batch_norm", ["running", "per_version"])
def test_channels_last_changes_rounding_alone(monkeypatch, batch_norm):
    """float32 rounds at 6e-8 of the values; D is a ratio of squares of small changes, some hundred times as uncertain."""
    probes = random_probes()
    relstab.estimate_batch_statistics(CONVOLUTIONS, probes.images)
    options = {"batch_norm": batch_norm, "batch_size": 4}
    table = relstab.measure_sensitivity(CONVOLUTIONS, probes, **options)
    other = relstab.measure_perturbations(CONVOLUTIONS, probes.images, {"noise": probes.noisy})
    without(monkeypatch, "channels_last")
    expected = relstab.measure_sensitivity(CONVOLUTIONS, probes, **options)
    assert list(table["layer"]) == list(expected["layer"])
    assert table.attrs["paper_layers"] == [["2", 1]]
    np.testing.assert_allclose(table[FIGURES + ERRORS], expected[FIGURES + ERRORS], rtol=2e-5, atol=1e-7)
    expected = relstab.measure_perturbations(CONVOLUTIONS, probes.images, {"noise": probes.noisy})
    np.testing.assert_allclose(other["S"], expected["S"], rtol=2e-5)


@pytest.mark.parametrize("build", [Flattening, OrderOfMemory])
@pytest.mark.parametrize("layers", [None, "paper"])
def test_networks_that_need_another_layout_get_it(monkeypatch, recwarn, build, layers):
    torch.manual_seed(0)
    model, probes = build(), random_probes()
    table = relstab.measure_sensitivity(model, probes, layers)
    assert table.attrs["paper_layers"] == [["relu(1)", 1]]
    assert not recwarn, [str(warning.message) for warning in recwarn]
    without(monkeypatch, "channels_last")
    np.testing.assert_array_equal(table[FIGURES + ERRORS], relstab.measure_sensitivity(model, probes, layers)[FIGURES + ERRORS])


class Scaling(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, values):
        return tuple(self.factor * value for value in values) if isinstance(values, tuple) else self.factor * values


class Centring(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, values):
        return values - values.mean(0)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.AvgPool2d(2)])
def test_networks_that_mix_images_are_still_named_in_channels_last(activation):
    """Also where no layers are found."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, Centring())
    with pytest.warns(UserWarning, match="the output for an image depends on the other images of its batch"):
        assert layouts(model, random_probes(8))[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", ["paper", "blocks"])
def test_layers_that_are_asked_for_and_missing_are_an_error(dtype, layers):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 4)).to(dtype)
    with pytest.raises(ValueError, match="found no"):
        relstab.measure_sensitivity(model, random_probes(dtype=dtype), layers)


class Frames(nn.Module):
    """Convolutions of the frames of a film [N, T, C, n, n]: there is no channels_last of five axes."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, films):
        return self.convolution(films.flatten(0, 1)).relu().unflatten(0, films.shape[:2]).mean((1, 3, 4))


def test_images_of_five_axes_are_measured(generator):
    clean = torch.randn(8, 2, 3, 8, 8, generator=generator)
    probes = relstab.Probes(clean, clean + 0.1, clean + 0.1 * torch.randn(clean.shape, generator=generator))
    torch.manual_seed(0)
    assert np.isfinite(relstab.measure_sensitivity(Frames(), probes, ["input", "output"])["R"]).all()


@pytest.mark.parametrize("build", [Flattening, OrderOfMemory])
def test_perturbations_are_measured_in_a_layout_that_the_network_takes(monkeypatch, build):
    torch.manual_seed(0)
    model, probes = build(), random_probes()
    table = relstab.measure_perturbations(model, probes.images, {"noise": probes.noisy})
    without(monkeypatch, "channels_last")
    np.testing.assert_array_equal(table["S"], relstab.measure_perturbations(model, probes.images, {"noise": probes.noisy})["S"])


class Permuting(nn.Module):
    def forward(self, values):
        return values.permute(0, 2, 3, 1)


class WritesInPlace(nn.Module):
    """Returns its input, to which it has written."""

    def forward(self, values):
        return values.mul_(2).sub_(1)


class FirstChannels(nn.Module):
    """Returns the beginning of its input's memory."""

    def forward(self, values):
        return values[:, :2]


class WritesPastTorch(nn.Module):
    """As :class:`WritesInPlace`, in a way that torch does not count."""

    def forward(self, values):
        values.data.clamp_(min=0)
        return values


class OfNumpy(nn.Module):
    """Random, without torch's generators."""

    def forward(self, values):
        return values + float(np.random.default_rng().normal())


class OfSeveral(nn.Module):
    """Takes no single image."""

    def forward(self, values):
        assert len(values) > 1
        return values


class Rounding(nn.Module):
    """Numbers that nearly cancel: ``error`` of the largest one, unlike from one size of a batch to the next."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, values):
        return torch.tensor([0.0, 1.0]).expand(len(values), 2) + self.error * len(values)


class TokensFirst(nn.Module):
    """Returns, beside the images, tokens [T, B, features] and what belongs to no image."""

    def forward(self, values):
        return values, values.flatten(1).T.unsqueeze(2), torch.tensor(3.0)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Flatten(), None),
        (TokensFirst(), None),
        (nn.Sequential(Centring(), TokensFirst()), "company"),
        (nn.Sequential(OfNumpy(), TokensFirst()), "random"),
        (nn.Sequential(nn.Flatten(), nn.Dropout()), None),
        (Centring(), "company"),
        (OfNumpy(), "random"),
        (OfSeveral(), None),
        (nn.Sequential(OfSeveral(), Centring()), "company"),
        (nn.Sequential(OfSeveral(), OfNumpy()), "random"),
        (Rounding(1e-4), None),
        (Rounding(5e-3), None),
        (Rounding(5e-2), "company"),
    ],
)
def test_networks_that_are_no_function_of_one_image(model, expected):
    images = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for factor in (1, 1e-6):
        assert recorder.departure(nn.Sequential(model, Scaling(factor)), images) == expected


SAME = {
    "identity": nn.Identity(),
    "dropout": nn.Dropout(),
    "permutation": Permuting(),
    "flatten": nn.Flatten(),
    "part": FirstChannels(),
    "in place": nn.ReLU(inplace=True),
    "twice in place": nn.Sequential(WritesInPlace(), nn.Identity(), WritesInPlace()),
    "past torch": WritesPastTorch(),
    "copy": nn.MaxPool2d(1),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inference", [False, True])
def test_layers_that_return_their_input_have_its_sums(monkeypatch, name, dtype, inference):
    """To the bit what summing them again gives, in batches of unequal size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), SAME[name], nn.Conv2d(4, 4, 1) if name != "flatten" else nn.Linear(784, 4))
    if name == "permutation":
        model[2] = nn.Linear(4, 4)
    if name == "part":
        model[2] = nn.Conv2d(2, 4, 1)
    model, probes = model.to(dtype), random_probes(11, dtype=dtype)
    with torch.inference_mode(inference):
        table = relstab.measure_sensitivity(model, [probes[:3], probes[3:]])
        without(monkeypatch, "sharing")
        np.testing.assert_array_equal(
            table[FIGURES + ERRORS], relstab.measure_sensitivity(model, [probes[:3], probes[3:]])[FIGURES + ERRORS]
        )


def test_layers_that_return_their_input_are_not_summed_again(monkeypatch):
    added = []
    add = recorder.LayerAccumulator.add
    monkeypatch.setattr(recorder.LayerAccumulator, "add", lambda self, rows: added.append(self.layer) or add(self, rows))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Identity(), nn.ReLU(inplace=True), nn.Flatten()).double()
    table = relstab.measure_sensitivity(model, random_probes(dtype=torch.float64), batch_size=12)
    assert added == ["input", "0", "3", "output"]
    assert list(table["layer"]) == ["input", "0", "1", "2", "3", "4", "output"]
    assert list(table["kind"]) == ["input", "Conv2d", "Dropout", "Identity", "ReLU", "Flatten", "output"]
    kinds = table.set_index("kind")
    assert kinds.loc["Conv2d", "D"] == kinds.loc["Dropout", "D"] == kinds.loc["Identity", "D"] != kinds.loc["ReLU", "D"]
    assert np.isfinite(kinds.loc["output", "D_median"]), "the medians are those of the output"


def test_memory_that_another_tensor_took_is_not_shared():
    """At the same place, with the same numbers."""
    place = np.ones((4, 9), np.float32)
    first = torch.from_numpy(place)
    last = recorder._LastSummed(first, recorder.LayerAccumulator("f", "f"))
    assert last.is_in(first.view(4, 9))
    del first
    other = torch.from_numpy(place)
    assert not last.is_in(other)


def test_shared_sums_stand_in_the_order_of_the_probes():
    """Which are measured in another one."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.ReLU())
    _, convolution, identity, _, _ = accumulate_sums(model, random_probes())
    assert (convolution.layer, identity.layer) == ("0", "1")
    np.testing.assert_array_equal(identity.numerators, convolution.numerators)
    np.testing.assert_array_equal(identity.spread, convolution.spread)


class AtFirst(nn.Module):
    """Returns its input for the first batches, and a copy of it later."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def forward(self, values):
        self.left -= 1
        return values if self.left >= 0 else values.clone()


def test_a_layer_that_returns_its_input_for_some_batches_is_never_wrong():
    """After the trial and the check, of one batch each: left out with a warning, or summed from the first batch on."""
    probes = random_probes(12)
    with pytest.warns(UserWarning, match="left out, since they return nothing by image in every batch: 2$"):
        table = relstab.measure_sensitivity(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), AtFirst(3)), probes, batch_size=4)
    assert list(table["layer"]) == ["input", "0", "1", "output"]
    table = relstab.measure_sensitivity(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), AtFirst(2)), probes, batch_size=4)
    np.testing.assert_array_equal(table["D"][2], table["D"][3])
