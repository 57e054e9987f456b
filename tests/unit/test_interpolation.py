import math

import pytest
import torch

import relstab
from relstab.interpolation import GAUSSIAN_WIDTH

NAMES = {"bilinear": "linear", "nearest": "nearest", "gaussian": "gaussian"}


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("interpolation", NAMES)
def test_warped_images_are_those_of_the_reference(reference, case, interpolation):
    fields = reference[f"diffeo{case}_dx"], reference[f"diffeo{case}_dy"]
    warped = relstab.warp(reference[f"diffeo{case}_image"], *fields, interpolation)
    torch.testing.assert_close(warped, reference[f"diffeo{case}_warped_{NAMES[interpolation]}"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_whole_pixels_shift_the_image_and_repeat_its_border(generator, interpolation):
    """dx = 2 moves the content two columns to the right, dy = 1 one row down; positions are rounded in their last digit."""
    image = torch.rand(7, 7, dtype=torch.float64, generator=generator)
    two, one = torch.full((7, 7), 2.0), torch.full((7, 7), 1.0)
    warped = relstab.warp(image, two, one, interpolation)
    torch.testing.assert_close(warped[1:, 2:], image[:-1, :-2], rtol=0, atol=1e-14)
    torch.testing.assert_close(warped[0, 2:], image[0, :-2], rtol=0, atol=1e-14)
    torch.testing.assert_close(warped[1:, 0], image[:-1, 0], rtol=0, atol=1e-14)


def test_no_field_gives_the_image_to_the_bit(generator):
    images = torch.randn(2, 3, 224, 224, generator=generator)
    zero = torch.zeros(2, 224, 224)
    for interpolation in ("bilinear", "nearest"):
        assert torch.equal(relstab.warp(images, zero, zero, interpolation), images)


@pytest.mark.parametrize("interpolation", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10), (torch.float32, 1e-4)])
def test_positions_are_as_precise_as_float32_in_any_dtype(generator, interpolation, dtype, tolerance):
    """Entries up to 4 are rounded to ``tolerance`` / 2 of themselves; a position off by 1e-5 pixels moves them by up to 1e-4."""
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=generator).to(dtype)
    dx, dy = torch.randn(2, 2, 64, 64, dtype=torch.float64, generator=generator)
    warped = relstab.warp(images, dx, dy, interpolation)
    assert warped.dtype == dtype
    expected = relstab.warp(images.double(), dx.float().double(), dy.float().double(), interpolation)
    torch.testing.assert_close(warped.double(), expected, rtol=tolerance, atol=tolerance)


def test_bilinear_is_exact_on_planes(generator):
    rows = torch.arange(9, dtype=torch.float64)[:, None].expand(9, 9)
    cols = rows.T
    dx, dy = 2 * torch.rand(2, 9, 9, dtype=torch.float64, generator=generator) - 1
    expected = 3 * (rows - dy).clamp(0, 8) - 2 * (cols - dx).clamp(0, 8)
    torch.testing.assert_close(relstab.warp(3 * rows - 2 * cols, dx, dy), expected, rtol=1e-12, atol=1e-12)


def test_gaussian_is_the_sum_over_all_pixels(generator):
    """The plain n^4 sum, against the local one that warp takes."""
    size = 8
    image, dx, dy = torch.randn(3, size, size, dtype=torch.float64, generator=generator)
    grid = torch.arange(size, dtype=torch.float64)
    row, col = (grid[:, None] - dy).clamp(0, size - 1), (grid - dx).clamp(0, size - 1)
    distance = (row[..., None, None] - grid[:, None]) ** 2 + (col[..., None, None] - grid) ** 2
    weight = torch.exp(-distance / (2 * GAUSSIAN_WIDTH**2))
    expected = (weight * image).sum((2, 3)) / weight.sum((2, 3))
    torch.testing.assert_close(relstab.warp(image, dx, dy, "gaussian"), expected, rtol=1e-12, atol=1e-13)


def test_a_field_an_image_moves_all_its_channels(generator):
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64, generator=generator)
    dx, dy = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=generator)
    warped = relstab.warp(images, dx, dy)
    for image in range(2):
        for channel in range(3):
            expected = relstab.warp(images[image, channel], dx[image], dy[image])
            torch.testing.assert_close(warped[image, channel], expected, rtol=1e-13, atol=1e-14)


def test_one_field_for_all_images(generator):
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64, generator=generator)
    dx, dy = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(relstab.warp(images, dx, dy)[1, 2], relstab.warp(images[1, 2], dx, dy), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("images", "field", "interpolation", "message"),
    [
        (torch.zeros(4, 5), torch.zeros(4, 5), "bilinear", "square"),
        (torch.zeros(4, 4), torch.zeros(5, 5), "bilinear", "expected dx to be one field"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4), "bilinear", "expected the leading shape of dx"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 5), "bilinear", "expected dx to be one field"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 1), "bilinear", "expected dx to be one field"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 5), "bilinear", "expected dx to be one field"),
        (torch.zeros(4, 4), torch.zeros(4, 4), "cubic", "one of 'bilinear', .* got 'cubic'"),
        (torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(4, 4), "bilinear", "torch.uint8"),
        (torch.zeros(4, 4), torch.full((4, 4), math.nan), "bilinear", "NaN or infinite"),
    ],
)
def test_what_cannot_be_is_refused(images, field, interpolation, message):
    with pytest.raises(ValueError, match=message):
        relstab.warp(images, field, field, interpolation)
