"""Section ``probes``: the perturbed images."""

from typing import Annotated, Literal

from pydantic import Field

from relstab.config.section import AtLeastTwo, Section, key


class Probing(Section):
    """The perturbed images on which sensitivities are measured."""

    images: AtLeastTwo = key(500, "P, test images that are perturbed.")
    # Below, float32 rounds away what differs between an image and its deformed version.
    displacement: Annotated[float, Field(ge=1e-3, le=1e6)] = key(
        1.0, "delta, typical displacement of the diffeomorphisms, in pixels."
    )
    cutoff: AtLeastTwo = key(3, "c, largest mode number of the displacement field.")
    interpolation: Literal["bilinear", "nearest", "gaussian"] = key(
        "bilinear", "How warped images are interpolated: bilinear, nearest or gaussian."
    )
