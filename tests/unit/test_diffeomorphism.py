import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import relstab

CASES = range(3)


@pytest.mark.parametrize("case", CASES)
def test_temperatures_are_those_of_the_reference(reference, case):
    given_ = reference.figures[f"diffeo{case}"]
    size, cutoff = given_["size"], given_["cutoff"]
    temperature = relstab.temperature(given_["displacement"], cutoff, size)
    assert temperature == pytest.approx(given_["temperature"], rel=1e-12)
    assert relstab.typical_displacement(temperature, cutoff, size) == pytest.approx(given_["typical_displacement"], rel=1e-12)
    low, high = relstab.temperature_range(size, cutoff)
    assert low == pytest.approx(given_["temperature_min"], rel=1e-12)
    assert high == pytest.approx(given_["temperature_max"], rel=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("axis", ["x", "y"])
def test_fields_are_those_of_the_reference(reference, case, axis):
    given_ = reference.figures[f"diffeo{case}"]
    field = relstab.displacement_field(reference[f"diffeo{case}_coefficients_{axis}"], given_["size"], given_["temperature"])
    torch.testing.assert_close(field, reference[f"diffeo{case}_d{axis}"], rtol=1e-10, atol=1e-13)


@given(
    displacement=st.floats(0.01, 10),
    cutoff=st.integers(2, 30),
    size=st.integers(4, 300),
)
def test_temperature_and_typical_displacement_are_inverse(displacement, cutoff, size):
    temperature = relstab.temperature(displacement, cutoff, size)
    assert relstab.typical_displacement(temperature, cutoff, size) == pytest.approx(displacement, rel=1e-12)


def test_the_lowest_admissible_temperature_moves_pixels_by_half_a_pixel():
    low, _ = relstab.temperature_range(32, 3)
    assert relstab.typical_displacement(low, 3, 32) == pytest.approx(0.5)


def test_a_single_mode_is_a_product_of_sines():
    """i counts half waves along columns (x), j along rows (y)."""
    size, temperature = 9, 0.01
    coefficients = torch.zeros(3, 3, dtype=torch.float64)
    coefficients[1, 0] = 1  # i = 2, j = 1
    x = torch.linspace(0, 1, size, dtype=torch.float64)
    expected = size * math.sqrt(temperature) / math.sqrt(5) * torch.sin(math.pi * x)[:, None] * torch.sin(2 * math.pi * x)
    torch.testing.assert_close(relstab.displacement_field(coefficients, size, temperature), expected, rtol=1e-12, atol=1e-15)


def test_modes_beyond_the_cutoff_circle_do_not_count():
    coefficients = torch.zeros(3, 3, dtype=torch.float64)
    coefficients[2, 2] = 1  # sqrt(18) > 3.5
    assert relstab.displacement_field(coefficients, 16, 0.01).abs().max() == 0


def test_fields_of_a_batch_are_those_of_each_image(generator):
    coefficients = torch.randn(2, 5, 4, 4, dtype=torch.float64, generator=generator)
    fields = relstab.displacement_field(coefficients, 12, 0.001)
    assert fields.shape == (2, 5, 12, 12)
    torch.testing.assert_close(fields[1, 3], relstab.displacement_field(coefficients[1, 3], 12, 0.001), rtol=1e-12, atol=1e-15)


def test_mean_squared_displacement_has_its_closed_form(generator):
    """E u(x, y)^2 = n^2 T sum_ij sin(i pi x)^2 sin(j pi y)^2 / (i^2 + j^2), at every pixel.

    Over 20,000 fields the average of the squares of normal numbers has relative error sqrt(2 / 20000) = 0.01; the mean over
    pixels is checked to 4 of these, single pixels to 6.
    """
    size, cutoff, count = 16, 3, 20_000
    temperature = relstab.temperature(1.0, cutoff, size)
    coefficients = torch.randn(count, cutoff, cutoff, dtype=torch.float64, generator=generator)
    measured = relstab.displacement_field(coefficients, size, temperature).square().mean(0)
    x = torch.linspace(0, 1, size, dtype=torch.float64)
    expected = torch.zeros(size, size, dtype=torch.float64)
    for i in range(1, cutoff + 1):
        for j in range(1, cutoff + 1):
            if math.hypot(i, j) < cutoff + 0.5:
                waves = torch.sin(j * math.pi * x)[:, None] ** 2 * torch.sin(i * math.pi * x) ** 2
                expected += size**2 * temperature * waves / (i**2 + j**2)
    inside = expected[1:-1, 1:-1]
    assert abs(float(measured.mean() / expected.mean()) - 1) < 0.04
    assert float((measured[1:-1, 1:-1] / inside - 1).abs().max()) < 0.06


def test_deform_moves_all_channels_alike_and_images_differently(generator):
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=generator)
    deformed = relstab.deform(image.expand(2, 3, 16, 16), generator=generator)
    torch.testing.assert_close(deformed[:, 0], deformed[:, 2], rtol=0, atol=0)
    assert (deformed[0] - deformed[1]).abs().max() > 0.01


def test_deform_is_reproducible_and_leaves_its_input(generator):
    images = torch.rand(4, 1, 16, 16, generator=generator)
    before = images.clone()
    first = relstab.deform(images, generator=torch.Generator().manual_seed(3))
    again = relstab.deform(images, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert torch.equal(images, before)


def test_no_displacement_changes_nothing(generator):
    images = torch.rand(2, 3, 10, 10, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(relstab.deform(images, displacement=0.0), images, rtol=0, atol=0)


@settings(max_examples=20)
@given(value=st.floats(-5, 5), seed=st.integers(0, 1000), interpolation=st.sampled_from(["bilinear", "nearest", "gaussian"]))
def test_constant_images_stay_constant(value, seed, interpolation):
    images = torch.full((1, 1, 12, 12), value, dtype=torch.float64)
    deformed = relstab.deform(images, 1.0, 3, interpolation, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(deformed, images, rtol=1e-13, atol=1e-13)


def test_the_warning_names_the_callers_line():
    with pytest.warns(UserWarning, match="outside the admissible range") as caught:
        relstab.deform(torch.rand(1, 1, 16, 16), 9.0)
    assert [warning.filename for warning in caught] == [__file__]


def test_half_precision_images_are_deformed_like_others(generator):
    images = torch.rand(3, 1, 32, 32, generator=generator).bfloat16()
    deformed, exact = (
        relstab.deform(each, generator=torch.Generator().manual_seed(1)).double() for each in (images, images.float())
    )
    torch.testing.assert_close(deformed, exact, rtol=2**-8, atol=1e-6)


def test_a_temperature_outside_the_admissible_range_warns_with_the_range():
    images = torch.rand(1, 1, 32, 32)
    with pytest.warns(UserWarning, match=r"outside the admissible range .* 0\.5 to 1\.\d+ pixels"):
        relstab.deform(images, displacement=5.0, cutoff=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relstab.deform(images, displacement=0.5, cutoff=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relstab.temperature(-1, 3, 32), "expected displacement .* got -1"),
        (lambda: relstab.temperature(1, 1, 32), "expected cutoff .* got 1"),
        (lambda: relstab.temperature(1, 3, 1), "got size 1"),
        (lambda: relstab.typical_displacement(float("nan"), 3, 32), "expected temperature .* got nan"),
        (lambda: relstab.displacement_field(torch.zeros(3, 4), 8, 0.1), r"got \(3, 4\)"),
        (lambda: relstab.displacement_field(torch.zeros(3, 3, dtype=torch.int64), 8, 0.1), "torch.int64"),
        (lambda: relstab.displacement_field(torch.zeros(3, 3), 8, -0.1), "expected temperature .* got -0.1"),
        (lambda: relstab.deform(torch.zeros(1, 1, 8, 9)), r"square images of shape \[N, C, n, n\]"),
        (lambda: relstab.deform(torch.zeros(8, 8)), r"square images of shape \[N, C, n, n\]"),
        (lambda: relstab.deform(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)), "torch.uint8"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
