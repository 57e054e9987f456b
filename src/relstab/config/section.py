"""What the sections of the config share: strict models, bounds that several keys have, and the way from a type to its section."""

import dataclasses
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from relstab.nearest import nearest

__all__ = [
    "AtLeastTwo",
    "Count",
    "Name",
    "NoBraces",
    "NotNegative",
    "Positive",
    "Section",
    "WrongKeys",
    "arguments_of",
    "distinct",
    "one_of",
    "section_in",
]

T = TypeVar("T")


class Section(BaseModel):
    # Strict: text is no number. Whole numbers pass for fractional ones.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class WrongKeys(ValueError):  # noqa: N818
    """Keys that disagree with each other or name what does not exist: by key, relative to the section that raises, one sentence."""

    def __init__(self, sentences: dict[str, str]) -> None:
        super().__init__("; ".join(sentences.values()))
        self.sentences = sentences

    @classmethod
    def raise_if(cls, sentences: dict[str, str]) -> None:
        if sentences:
            raise cls(sentences)


def one_of(name: str, known: Any) -> str:
    """The sentence for a name that is not among the known ones."""
    return f"expected one of {', '.join(known)}, got {name!r}{nearest(name, known)}"


def distinct(values: list[T]) -> list[T]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"expected distinct values, got {value!r} more than once")
    return values


def _name(name: str) -> str:
    if not all(character.isalnum() or character == "_" for character in name) or not name:
        raise ValueError(f"expected a name of letters, digits and underscores, got {name!r}")
    return name


def _no_braces(path: str) -> str:
    if not path or "{" in path or "}" in path:
        raise ValueError(f"expected a path without braces, which mark wildcards in file names, got {path!r}")
    return path


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
Name = Annotated[str, AfterValidator(_name)]
NoBraces = Annotated[str, AfterValidator(_no_braces)]


def arguments_of(described: type, section: Section) -> dict[str, Any]:
    """The arguments of a dataclass that are keys of a section, in the order of the dataclass."""
    names = [field.name for field in dataclasses.fields(described) if field.name in type(section).model_fields]
    return {name: getattr(section, name) for name in names}


def section_in(annotation: Any) -> type[Section] | None:
    """The section in the type of a key: ``Section``, ``Section | None`` or ``dict[str, Section]``; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)
