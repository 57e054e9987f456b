"""Section ``probes``: the perturbed images."""

from typing import Annotated, Literal

from pydantic import Field

from relstab.config.section import AtLeastTwo, Distinct, OneOrMore, Section, key

# Below this, float32 rounds away the difference between an image and its deformed version.
Displacement = Annotated[float, Field(ge=1e-3, le=1e6)]


class Sweep(Section):
    """Diffeomorphisms of other displacements and cutoffs."""

    displacement: OneOrMore[Displacement] = key(..., "delta, in pixels, or a list of them.")
    cutoff: AtLeastTwo = key(..., "c, largest mode number of the displacement field.")


class Probing(Section):
    """The perturbed images on which sensitivities are measured."""

    images: AtLeastTwo = key(500, "P, test images that are perturbed.")
    displacement: Displacement = key(1.0, "delta, typical displacement of the diffeomorphisms, in pixels.")
    cutoff: AtLeastTwo = key(3, "c, largest mode number of the displacement field.")
    interpolation: Literal["bilinear", "nearest", "gaussian"] = key(
        "bilinear", "How warped images are interpolated: bilinear, nearest or gaussian."
    )
    sweep: list[Sweep] = key(
        [],
        "Further diffeomorphisms, [{displacement: [0.5, 1, 2], cutoff: 3}], for which D, G and R of the output are measured "
        "at the lowest noise level, without training again; they add a table and a figure.",
    )
    sweep_architectures: Distinct[str] | None = key(None, "Architectures that are measured so; null: all.")

    @property
    def sweep_pairs(self) -> list[tuple[float, int]]:
        """Displacement and cutoff of each of the further diffeomorphisms, once."""
        pairs = []
        for entry in self.sweep:
            displacements = entry.displacement if isinstance(entry.displacement, list) else [entry.displacement]
            pairs += [(displacement, entry.cutoff) for displacement in displacements]
        return list(dict.fromkeys(pairs))
