"""Section ``own_architectures``: networks that the user builds."""

from typing import Annotated

from pydantic import AfterValidator

from relstab.architectures import describe_own
from relstab.config.data import Reference
from relstab.config.section import Section, key


class OwnArchitecture(Section):
    """A user architecture."""

    builder: Reference = key(
        ..., "path/to/file.py:function of the image shape and the number of classes that returns a torch module."
    )
    label: str | None = key(None, "Its name in figures; null: the name of the section.")
    convolutional: bool = key(True, "Whether it has convolutions, to shuffle and analyse.")
    skips: bool = key(False, "Whether it has skip connections.")


def _described(entries: dict[str, OwnArchitecture]) -> dict[str, OwnArchitecture]:
    describe_own({name: entry.model_dump() for name, entry in entries.items()})
    return entries


OwnArchitectures = Annotated[dict[str, OwnArchitecture], AfterValidator(_described)]
