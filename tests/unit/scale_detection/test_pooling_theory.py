"""Networks of homogeneous filters against their closed forms, exponents predicted and fitted, and receptive fields measured."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from relstab.scale_detection.exponents import fit_exponent, predicted_exponents
from relstab.scale_detection.homogeneous import (
    autocorrelations,
    composite_filter,
    exact_autocorrelations,
    homogeneous_layers,
    homogeneous_theory,
    lit_site_probes,
    receptive_fields,
)
from relstab.scale_detection.receptive_field import participation_field

# Filter, stride and depth: diffusion, windows that touch, and all kinds of overlaps between.
NETWORKS = [
    (2, 1, 8), (3, 1, 6), (4, 1, 5), (5, 1, 6), (2, 2, 6), (3, 3, 4), (5, 5, 3), (3, 2, 5), (4, 2, 5), (5, 2, 5), (4, 3, 4),
    (5, 3, 4), (6, 3, 4), (6, 4, 3), (7, 6, 3),
]  # fmt: skip


def sensitivities(images, versions, filter_size, stride, depth):
    """D or G of each layer for each perturbed version, [versions, depth], by the definition: over 2 (mean |f|^2 - |mean f|^2)."""
    moved, squares, total = np.zeros((len(versions), depth)), np.zeros(depth), [0.0] * depth
    for rows in torch.arange(len(images)).split(512):
        clean, *others = (homogeneous_layers(version[rows], filter_size, stride, depth) for version in (images, *versions))
        for k, f in enumerate(clean):
            moved[:, k] += [float((other[k] - f).square().sum()) for other in others]
            squares[k] += float(f.square().sum())
            total[k] = total[k] + f.sum(0)
    count = len(images)
    means = np.array([float((one / count).square().sum()) for one in total])
    return moved / count / (2 * (squares / count - means))


def large_size(filter_size, stride, depth):
    """A ring that the composite filter fits into, of whole windows in every layer."""
    size = stride**depth
    return size * -(-2 * len(composite_filter(filter_size, stride, depth)) // size)


@pytest.mark.parametrize(("filter_size", "stride", "depth"), NETWORKS)
def test_d_is_its_closed_form(filter_size, stride, depth, generator):
    """Exactly, with all sites lit and moved, whether to the right or to the left: these are the same pairs of neighbours."""
    size = large_size(filter_size, stride, depth)
    probes = lit_site_probes(size, generator=generator)
    theory = homogeneous_theory(filter_size, stride, depth, size, 1.0, 0.0, 0.0)
    measured = sensitivities(probes.images, [probes.deformed, probes.images.roll(-1, 1)], filter_size, stride, depth)
    np.testing.assert_allclose(measured, [theory.D, theory.D], rtol=1e-10)


@pytest.mark.parametrize(("filter_size", "stride", "depth"), [(5, 1, 10), (2, 2, 5), (4, 2, 4), (3, 2, 4)])
@pytest.mark.parametrize("height", [1.0, 8.0])
def test_g_is_its_closed_form_for_independent_noise(filter_size, stride, depth, height, generator):
    """Uniform from 0 to 0.2: mean 0.1, variance 0.2^2 / 12.

    Tolerance: 4.5 standard errors of the mean over 800 images, which are below 1% of it.
    """
    size = 256
    images = height * torch.eye(size, dtype=torch.float64)
    theory = homogeneous_theory(filter_size, stride, depth, size, height, 0.1, 0.2**2 / 12)
    noise = 0.2 * torch.rand(800, size, dtype=torch.float64, generator=generator)
    # Nothing is negative, so that layers are linear: what noise does to an image is what it does to a blank one.
    clean, single = (homogeneous_layers(version, filter_size, stride, depth) for version in (images, images[:1] + noise[:1]))
    for k, response in enumerate(homogeneous_layers(noise, filter_size, stride, depth)):
        torch.testing.assert_close(single[k] - clean[k][:1], response[:1], rtol=1e-10, atol=1e-12)
        denominator = 2 * (clean[k].square().sum(1).mean() - clean[k].mean(0).square().sum())
        values = response.square().sum(1) / denominator
        error = float(values.std()) / math.sqrt(len(values))
        assert error < 0.01 * theory.G[k]
        assert float(values.mean()) == pytest.approx(theory.G[k], abs=4.5 * error)


@pytest.mark.parametrize(("filter_size", "stride", "depth"), [(5, 1, 12), (2, 2, 6), (4, 2, 5), (3, 2, 5)])
def test_g_of_the_probes_is_its_closed_form(filter_size, stride, depth, generator):
    """With the mean and the variance that the noise has.

    Tolerance: 1%. Entries of noise of a given norm are not quite independent, which changes G by up to 2 / L, 0.4% here; chance
    does less.
    """
    size = 512
    probes = lit_site_probes(size, generator=generator)
    noise = probes.noisy - probes.images
    (measured,) = sensitivities(probes.images, [probes.noisy], filter_size, stride, depth)
    theory = homogeneous_theory(filter_size, stride, depth, size, 1.0, float(noise.mean()), float(noise.var(correction=0)))
    np.testing.assert_allclose(measured, theory.G, rtol=0.01)


def test_probes_of_lit_sites(generator):
    size = 32
    probes = lit_site_probes(size, generator)
    sites = probes.images.argmax(1)
    assert sites.tolist() == list(range(size))
    assert torch.equal(probes.images, torch.nn.functional.one_hot(sites, size).double())
    moved = probes.deformed.argmax(1)
    assert torch.equal(probes.deformed, torch.nn.functional.one_hot(moved, size).double())
    assert set(((moved - sites) % size).tolist()) == {1}
    noise = probes.noisy - probes.images
    assert (noise > -1e-15).all()
    # Half of the entries of a normal vector are negative and are set to 0: within 4 binomial standard errors.
    assert float((noise.abs() < 1e-15).double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(noise.numel()))
    torch.testing.assert_close(noise.norm(dim=1), (probes.deformed - probes.images).norm(dim=1))


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def test_diffusion_has_the_exponents_of_the_paper(generator):
    """F = 5 at stride 1, layers 4 to 12: A_k ~ k^(1/2), D_k ~ k^-1 and G_k ~ k^(1/2) within 0.1: they are not asymptotic yet."""
    k = np.arange(4, 13)
    probes = lit_site_probes(512, generator=generator)
    d, g = sensitivities(probes.images, [probes.deformed, probes.noisy], 5, 1, 12)[:, 3:]
    assert slope(k, d) == pytest.approx(-1, abs=0.1)
    assert slope(k, g) == pytest.approx(0.5, abs=0.1)
    assert slope(k, receptive_fields(5, 1, 12)[3:]) == pytest.approx(0.5, abs=0.02)


def test_strides_have_the_exponents_of_the_paper(generator):
    """F = s = 2 on 1024 sites, all lit, layers 3 to 7: D_k ~ 1 / A_k and G_k ~ A_k with A_k = 2^k, within 0.06.

    The finite ring makes 0.04 of it: 1 - A_k / L is 0.99 to 0.875.
    """
    fields = receptive_fields(2, 2, 7)[2:]
    np.testing.assert_allclose(fields, [8, 16, 32, 64, 128], rtol=1e-15)
    probes = lit_site_probes(1024, generator=generator)
    d, g = sensitivities(probes.images, [probes.deformed, probes.noisy], 2, 2, 7)[:, 2:]
    assert slope(fields, d) == pytest.approx(-1, abs=0.06)
    assert slope(fields, g) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(("filter_size", "stride", "depth"), NETWORKS)
def test_autocorrelations_are_those_of_the_composite_filter(filter_size, stride, depth):
    exact = exact_autocorrelations(filter_size, stride, depth)
    scaled = autocorrelations(filter_size, stride, depth)
    fields = receptive_fields(filter_size, stride, depth)
    assert scaled.shape == (depth, 2)
    for k in range(1, depth + 1):
        composite = composite_filter(filter_size, stride, k)
        assert composite.sum() == filter_size**k
        # What a site in the middle of layer k sees: the response of the network itself.
        correlation = np.correlate(composite, composite, "full")
        middle = len(composite) - 1
        assert exact[k - 1] == (correlation[middle], correlation[middle + 1])
        np.testing.assert_allclose(scaled[k - 1], correlation[middle : middle + 2] / filter_size ** (2 * k), rtol=1e-15)
        assert fields[k - 1] == pytest.approx(composite.sum() ** 2 / np.square(composite).sum(), rel=1e-14)


@pytest.mark.parametrize(("filter_size", "stride", "depth"), NETWORKS)
def test_the_composite_filter_is_what_the_layers_see(filter_size, stride, depth):
    size = large_size(filter_size, stride, depth)
    lit = torch.eye(size, dtype=torch.float64)
    weights = homogeneous_layers(lit, filter_size, stride, depth)[-1][:, 0] * filter_size**depth
    composite = composite_filter(filter_size, stride, depth)
    first = -sum((filter_size - 1) // 2 * stride**k for k in range(depth))
    np.testing.assert_allclose(weights.roll(-first)[: len(composite)], composite, rtol=1e-12)
    assert float(weights.sum()) == pytest.approx(filter_size**depth, rel=1e-12)


@pytest.mark.parametrize("filter_size", [2, 3, 4, 7])
def test_windows_that_touch_make_fields_of_their_size(filter_size):
    for k, (here, beside) in enumerate(exact_autocorrelations(filter_size, filter_size, 12), start=1):
        assert Fraction(filter_size ** (2 * k), here) == filter_size**k
        # s^k equal weights side by side: D_k is 1 / A_k.
        assert Fraction(here - beside, here) == Fraction(1, filter_size**k)
    np.testing.assert_allclose(receptive_fields(filter_size, filter_size, 12), float(filter_size) ** np.arange(1, 13), rtol=1e-14)


@pytest.mark.parametrize("filter_size", [2, 3, 5])
def test_fields_at_stride_1_approach_those_of_diffusion(filter_size):
    """The composite filter approaches a normal curve of variance k (F^2 - 1) / 12, with corrections of order 1 / k."""
    k = np.array([10, 40, 160])
    fields = receptive_fields(filter_size, 1, 160)[k - 1]
    distance = np.abs(fields / np.sqrt(np.pi * k * (filter_size**2 - 1) / 3) - 1)
    assert (distance < 0.25 / k).all()
    np.testing.assert_allclose(distance[:-1] / distance[1:], 4, rtol=0.05)


@pytest.mark.parametrize(
    ("filter_size", "stride", "exponent", "growth"),
    [
        *((f, 1, -2, 1) for f in (2, 3, 5)),
        *((s, s, -1, s) for s in (2, 3, 4, 7)),
        (4, 2, -2, 2),
        (3, 2, 0, None),
        (5, 2, 0, None),
        (6, 3, -(1 + math.log(2) / math.log(3)), 3),
    ],
)
def test_predicted_exponents_are_their_closed_forms(filter_size, stride, exponent, growth):
    found = predicted_exponents(filter_size, stride)
    assert found.G == 1
    assert exponent == pytest.approx(found.D, abs=1e-9)
    if growth is not None:
        assert found.growth == pytest.approx(growth, rel=1e-12)


@pytest.mark.parametrize(
    ("filter_size", "stride", "depth"), [(2, 2, 16), (3, 3, 10), (4, 2, 14), (6, 3, 9), (3, 2, 16), (5, 4, 7), (8, 4, 7)]
)
def test_predicted_exponents_are_those_of_deep_layers(filter_size, stride, depth):
    """Fitted to the last three layers on a ring so large that it does not matter: what is left of other terms is below 0.003."""
    size = 2**40 // stride**depth * stride**depth
    theory = homogeneous_theory(filter_size, stride, depth, size, 1.0, 1.0, 1.0)
    predicted = predicted_exponents(filter_size, stride)
    deep = slice(depth - 3, None)
    assert fit_exponent(theory.receptive_field[deep], theory.D[deep]).value == pytest.approx(predicted.D, abs=0.003)
    assert fit_exponent(theory.receptive_field[deep], theory.G[deep]).value == pytest.approx(predicted.G, abs=0.003)
    assert theory.receptive_field[-1] / theory.receptive_field[-2] == pytest.approx(predicted.growth, rel=0.003)


def test_predicted_exponents_at_stride_1_are_those_of_deep_layers():
    """A_k grows as the square root of k: exponents are approached as 1 / k, and to 0.01 at k of 200."""
    theory = homogeneous_theory(3, 1, 220, 2**40, 1.0, 1.0, 0.0)
    predicted = predicted_exponents(3, 1)
    assert fit_exponent(theory.receptive_field[199:], theory.D[199:]).value == pytest.approx(predicted.D, abs=0.01)
    assert fit_exponent(theory.receptive_field[199:], theory.G[199:]).value == pytest.approx(predicted.G, abs=1e-6)


def test_fits_of_power_laws_are_exact():
    field = np.array([2.0, 4, 8, 20, 50])
    assert fit_exponent(field, 3 * field**-1.7).value == pytest.approx(-1.7, rel=1e-12)
    # One field for all networks, or one for each; the exponent is the mean of those of the networks.
    exponents = np.array([-1.5, -1.0, -0.5, -2.0])[:, None]
    one = fit_exponent(field, 2 * field**exponents)
    each = fit_exponent(field * np.arange(1, 5)[:, None], 2 * field**exponents)
    for fitted in (one, each):
        assert fitted.value == pytest.approx(-1.25, rel=1e-12)
        assert -2 <= fitted.low < -1.25 < fitted.high <= -0.5


def noisy_laws(networks):
    rng = np.random.default_rng(11)
    field = 2.0 ** np.arange(1, 7)
    slopes = rng.normal(-1, 0.2, networks)[:, None]
    return field, field**slopes * np.exp(rng.normal(0, 0.1, (networks, 6)))


def test_intervals_hold_the_exponent_and_shrink_with_networks():
    """By 4, the square root of 16 times as many networks, up to a factor of 2: 10 networks know their spread to about 25%."""
    few, many = (fit_exponent(*noisy_laws(networks)) for networks in (10, 160))
    assert few.low < -1 < few.high
    assert many.low < -1 < many.high
    assert 2 < (few.high - few.low) / (many.high - many.low) < 8
    wider = fit_exponent(*noisy_laws(10), confidence=0.99)
    assert wider.low < few.low < few.high < wider.high
    assert fit_exponent(*noisy_laws(10)) == few
    assert fit_exponent(*noisy_laws(10), seed=1) != few


def test_three_networks_have_no_interval():
    fitted = fit_exponent(*noisy_laws(3))
    assert math.isfinite(fitted.value)
    assert math.isnan(fitted.low)
    assert math.isnan(fitted.high)
    assert math.isfinite(fit_exponent(*noisy_laws(4)).low)


def lit_responses(size, filter_size, stride, depth):
    """Layers' responses to each lit site and to a blank image, with an axis of channels: two, of which one is a multiple."""
    channels = torch.tensor([1.0, -3.0], dtype=torch.float64)
    lit = homogeneous_layers(torch.eye(size, dtype=torch.float64), filter_size, stride, depth)
    blank = homogeneous_layers(torch.zeros(1, size, dtype=torch.float64), filter_size, stride, depth)
    return [[values[..., None] * channels + 5 for values in layers] for layers in (lit, blank)]


@pytest.mark.parametrize(("filter_size", "stride", "depth"), [(5, 1, 8), (2, 1, 12), (2, 2, 6), (3, 3, 4), (5, 5, 2)])
@pytest.mark.parametrize("average", [False, True])
def test_measured_fields_of_homogeneous_filters_are_theirs(filter_size, stride, depth, average):
    size = large_size(filter_size, stride, depth)
    fields = receptive_fields(filter_size, stride, depth)
    for response, blank, field in zip(*lit_responses(size, filter_size, stride, depth), fields, strict=True):
        assert float(participation_field(response, blank, size, average=average)) == pytest.approx(field, rel=1e-10)


def test_measured_fields_are_those_of_each_member_and_leave_out_what_is_not_seen():
    (response,), (blank,) = lit_responses(16, 3, 1, 1)
    members = torch.stack([response, 2 * response])
    members[1, :4] = 2 * blank[0]  # a member that four lit sites do not reach
    blanks = torch.stack([blank, 2 * blank])
    torch.testing.assert_close(participation_field(members, blanks, 16), torch.full((2,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: receptive_fields(1, 1, 3),
            "expected filter_size to be at least 2, since a filter of one site pools nothing, got 1",
        ),
        (lambda: composite_filter(3, 4, 2), "expected stride to be from 1 to filter_size = 3, got 4"),
        (lambda: autocorrelations(3, 0, 2), "expected stride to be from 1 to filter_size = 3, got 0"),
        (lambda: exact_autocorrelations(3, 1, 0), "expected depth to be at least 1, got 0"),
        (lambda: predicted_exponents(1, 1), "expected filter_size to be at least 2, .* got 1"),
        (lambda: predicted_exponents(2, 3), "expected stride to be from 1 to filter_size = 2, got 3"),
        (
            lambda: homogeneous_theory(2, 2, 3, 12, 1.0, 0.0, 1.0),
            r"expected size to be a multiple of stride\^depth = 8, and at least the 8 sites of the composite filter, got 12",
        ),
        (
            lambda: homogeneous_theory(5, 1, 3, 12, 1.0, 0.0, 1.0),
            "expected size .* at least the 13 sites of the composite filter, got 12",
        ),
        (
            lambda: homogeneous_layers(torch.zeros(1, 8), 3, 2, 4),
            "expected fewer layers: one has 2 sites, and its filters have 3",
        ),
        (lambda: fit_exponent([1.0], [1.0]), "expected at least 2 layers for a slope, got 1"),
        (lambda: fit_exponent([1.0, 2.0], [0.0, 1.0]), "expected positive receptive fields and sensitivities"),
        (lambda: fit_exponent([-1.0, 2.0], [1.0, 1.0]), "expected positive receptive fields and sensitivities"),
        (lambda: fit_exponent([1.0, 2.0], [math.nan, 1.0]), "expected positive receptive fields and sensitivities"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
