"""What all sections of the config share."""

import dataclasses
import os
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from relstab.files.network import noise_level
from relstab.runs.nearest import nearest

T = TypeVar("T")


def _expanded(path: str) -> str:
    """A path with ~ replaced by the home folder, as a shell does."""
    if "$" in path:
        raise ValueError(f"expected a path without variables, got {path!r}: write out what $ stands for")
    return os.path.normpath(os.path.expanduser(path))


# The upper bounds are far beyond anything that can be computed. They catch slips, with which planning alone would never end.
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
NoiseLevel = Annotated[NotNegative, AfterValidator(noise_level)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Images = Annotated[int, Field(ge=1, le=10**9)]
Seeds = Annotated[int, Field(ge=1, le=10**4)]
Whole = Annotated[int, Field(le=10**6)]
Number = Annotated[float, Field(le=1e9, allow_inf_nan=False)]
AtLeastTwo = Annotated[int, Field(ge=2, le=10**6)]
Name = Annotated[str, Field(pattern=r"^\w+$")]
NoBraces = Annotated[str, Field(pattern=r"^[^{}]+$"), AfterValidator(_expanded)]
AnyPath = Annotated[str, AfterValidator(_expanded)]


class Section(BaseModel):
    # Strict: text is no number. Whole numbers pass for fractional ones.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def key(default: Any, description: str, **options: Any) -> Any:
    """A key of a section; its description is the comment in config.yaml."""
    return Field(default, description=description, **options)


class WrongKeysError(ValueError):
    """Keys that conflict with others: one sentence per key, named from the section that raises the error."""

    def __init__(self, sentences: dict[str, str]) -> None:
        super().__init__("; ".join(sentences.values()))
        self.sentences = sentences


def refuse(sentences: dict[str, str]) -> None:
    """Raise an error if any key is wrong."""
    if sentences:
        raise WrongKeysError(sentences)


def one_of(name: str, known: Any) -> str:
    """The sentence for a name that is not among the known ones."""
    return f"expected one of {', '.join(known)}, got {name!r}{nearest(name, known)}"


def _distinct(values: list[T]) -> list[T]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"expected distinct values, got {value!r} more than once")
    return values


Distinct = Annotated[list[T], AfterValidator(_distinct)]
UNION_TAGS = ("[auto]", "[one]", "[list]")
"""Steps that a value of :data:`OneOrMore` or :data:`AutoOneOrMore` adds to the location of an error."""
_Several = Annotated[list[T], Field(min_length=1), AfterValidator(_distinct), Tag("[list]")]
OneOrMore = Annotated[
    Annotated[T, Tag("[one]")] | _Several[T],
    Discriminator(lambda value: "[list]" if isinstance(value, list) else "[one]"),
]
AutoOneOrMore = Annotated[
    Annotated[Literal["auto"], Tag("[auto]")] | Annotated[T, Tag("[one]")] | _Several[T],
    Discriminator(lambda value: "[auto]" if value == "auto" else "[list]" if isinstance(value, list) else "[one]"),
]


def arguments_of(described: type, section: Section) -> dict[str, Any]:
    """The arguments of a dataclass that are keys of a section, in the order of the dataclass."""
    names = [field.name for field in dataclasses.fields(described) if field.name in type(section).model_fields]
    return {name: getattr(section, name) for name in names}


def section_in(annotation: Any) -> type[Section] | None:
    """The section in the type of a key: ``Section``, ``Section | None`` or ``dict[str, Section]``; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)
