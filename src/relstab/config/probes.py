"""Section ``probes``: the perturbed images."""

from typing import Literal

from pydantic import Field

from relstab.config.section import AtLeastTwo, Positive, Section

__all__ = ["Probing"]


class Probing(Section):
    """The perturbed images on which sensitivities are measured."""

    images: AtLeastTwo = Field(500, description="P, test images that are perturbed.")
    displacement: Positive = Field(1.0, description="delta, typical displacement of the diffeomorphisms, in pixels.")
    cutoff: AtLeastTwo = Field(3, description="c, largest mode number of the displacement field.")
    interpolation: Literal["bilinear", "nearest", "gaussian"] = Field(
        "bilinear", description="How warped images are interpolated: bilinear, nearest or gaussian."
    )
