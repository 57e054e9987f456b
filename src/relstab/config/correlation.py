"""Section ``correlation``: test error and sensitivities over networks."""

from typing import Annotated

from pydantic import Field

from relstab.config.section import Section, key


class Correlation(Section):
    """Correlation of test error and sensitivities over networks."""

    learned_below: Annotated[float, Field(gt=0, le=1)] = key(
        0.9,
        "A network has learned when its test error is below this share of the error of guessing the largest class. "
        "The others are flagged in networks.csv and left out of correlations, claims and figures.",
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = key(0.95, "Of the intervals in tables and figures.")
    resamples: Annotated[int, Field(ge=100, le=10**6)] = key(2000, "Bootstrap samples of the intervals.")
