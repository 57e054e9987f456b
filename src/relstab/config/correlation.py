"""Section ``correlation``: test error and sensitivities over networks."""

from typing import Annotated

from pydantic import Field

from relstab.config.section import Section

__all__ = ["Correlation"]


class Correlation(Section):
    """Correlation of test error and sensitivities over networks."""

    learned_below: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9,
        description="A network has learned when its test error is below this share of the error of guessing the largest class. "
        "The others are flagged in networks.csv and left out of correlations, claims and figures.",
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="Of the intervals in tables and figures.")
    resamples: Annotated[int, Field(ge=100)] = Field(2000, description="Bootstrap samples of the intervals.")
