"""A number as figures, reports and pages show it."""

import math

__all__ = ["number_text"]


def number_text(value: float, form: str = ".2f", missing: str = "") -> str:
    """A number with a true minus sign; zero has none.

    Args:
        value: the number.
        form: format of Python for a float, without a sign: ".2f", ".3g", ".1%".
        missing: text of NaN.
    """
    return missing if math.isnan(value) else f"{value:z{form}}".replace("-", "\N{MINUS SIGN}")
