"""What all sections of the config share."""

import dataclasses
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from relstab.runs.nearest import nearest

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
Name = Annotated[str, Field(pattern=r"^\w+$")]
NoBraces = Annotated[str, Field(pattern=r"^[^{}]+$")]


class Section(BaseModel):
    # Strict: text is no number. Whole numbers pass for fractional ones.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def key(default: Any, description: str, **options: Any) -> Any:
    """A key of a section; its description is the comment in config.yaml."""
    return Field(default, description=description, **options)


class WrongKeysError(ValueError):
    """Keys that cannot be with others: one sentence by key, seen from the section that raises."""

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


def arguments_of(described: type, section: Section) -> dict[str, Any]:
    """The arguments of a dataclass that are keys of a section, in the order of the dataclass."""
    names = [field.name for field in dataclasses.fields(described) if field.name in type(section).model_fields]
    return {name: getattr(section, name) for name in names}


def section_in(annotation: Any) -> type[Section] | None:
    """The section in the type of a key: ``Section``, ``Section | None`` or ``dict[str, Section]``; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)
