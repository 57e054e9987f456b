"""Numbers as figures, reports and pages show them."""

import math

import pytest

from relstab.tables.number_text import interval_text, number_text


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-1.234, ".2f", "\N{MINUS SIGN}1.23"),
        (1.234, ".2f", "1.23"),
        (-0.001, ".2f", "0.00"),
        (-0.0, ".3g", "0"),
        (-1.5e-7, ".2g", "\N{MINUS SIGN}1.5e\N{MINUS SIGN}07"),
        (math.nan, ".2f", ""),
    ],
)
def test_minus_signs_are_true_ones_and_zero_has_none(value, form, text):
    assert number_text(value, form) == text


def test_a_missing_number_has_the_text_that_is_given():
    assert number_text(math.nan, missing="none") == "none"


def test_an_interval_has_both_ends_or_is_absent():
    assert interval_text(-0.5, 0.25) == "[\N{MINUS SIGN}0.50, 0.25]"
    assert interval_text(0.1234, 12, ".3g") == "[0.123, 12]"
    assert interval_text(math.nan, math.nan) == ""
