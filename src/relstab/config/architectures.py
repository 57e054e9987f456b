"""Section ``own_architectures``: networks that the user builds."""

from typing import Annotated

from pydantic import AfterValidator, Field

from relstab.architectures import describe_own
from relstab.config.data import Reference
from relstab.config.section import Section

__all__ = ["OwnArchitecture", "OwnArchitectures"]


class OwnArchitecture(Section):
    """A user architecture."""

    builder: Reference = Field(
        ..., description="path/to/file.py:function of the image shape and the number of classes that returns a torch module."
    )
    label: str | None = Field(None, description="Its name in figures; null: the name of the section.")
    convolutional: bool = Field(True, description="Whether it has convolutions, to shuffle and analyse.")
    skips: bool = Field(False, description="Whether it has skip connections.")


def _described(entries: dict[str, OwnArchitecture]) -> dict[str, OwnArchitecture]:
    describe_own({name: entry.model_dump() for name, entry in entries.items()})
    return entries


OwnArchitectures = Annotated[dict[str, OwnArchitecture], AfterValidator(_described)]
