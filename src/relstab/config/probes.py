"""Section ``probes``: the perturbed images."""

from typing import Literal

from relstab.config.section import AtLeastTwo, Positive, Section, key


class Probing(Section):
    """The perturbed images on which sensitivities are measured."""

    images: AtLeastTwo = key(500, "P, test images that are perturbed.")
    displacement: Positive = key(1.0, "delta, typical displacement of the diffeomorphisms, in pixels.")
    cutoff: AtLeastTwo = key(3, "c, largest mode number of the displacement field.")
    interpolation: Literal["bilinear", "nearest", "gaussian"] = key(
        "bilinear", "How warped images are interpolated: bilinear, nearest or gaussian."
    )
