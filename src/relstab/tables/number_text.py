"""A number and an interval as figures, reports and pages show them."""

import math

__all__ = ["interval_text", "number_text", "with_interval"]


def number_text(value: float, form: str = ".2f", missing: str = "") -> str:
    """A number with a true minus sign; zero has none.

    Args:
        value: the number.
        form: format of Python for a float, without a sign: ".2f", ".3g", ".1%".
        missing: text of NaN.
    """
    return missing if math.isnan(value) else f"{value:z{form}}".replace("-", "\N{MINUS SIGN}")


def interval_text(low: float, high: float, form: str = ".2f") -> str:
    """Both ends in brackets; "" where there is no interval."""
    return "" if math.isnan(low) else f"[{number_text(low, form)}, {number_text(high, form)}]"


def with_interval(value: float, low: float, high: float, form: str = ".2f", missing: str = "") -> str:
    """A number and, where there is one, its interval: "1.14 [0.96, 1.31]"."""
    return f"{number_text(value, form, missing)} {interval_text(low, high, form)}".strip()
