"""From pydantic's errors to one sentence per wrong key: what was expected, what the config has, and where."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from relstab.config.section import UNION_TAGS, Section, WrongKeysError, section_in
from relstab.runs.nearest import nearest

__all__ = ["ConfigError", "sentences"]

_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a section of keys with values",
    "model_type": "a section of keys with values",
    "model_attributes_type": "a section of keys with values",
    "too_short": "a list with at least {min_length} entry",
    "too_long": "a list with at most {max_length} entries",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "{pattern}",
}
# Every pattern in the models.
_PATTERNS = {
    r"^\w+$": "a name of letters, digits and underscores",
    r"^(\w+|timm:\w+(\.\w+)?)$": "a name in torchvision or timm, such as resnet18 or timm:convnext_atto",
    r"^[^{}]+$": "a path without braces, which mark wildcards in file names",
    r"^(auto|cpu|cuda(:\d+)?)$": "'auto', 'cpu', 'cuda' or 'cuda:N'",
}


class ConfigError(ValueError):
    """A configuration that cannot be run; the message is one sentence per wrong key."""


def sentences(error: ValidationError, root: type[Section], source: str) -> Iterator[str]:
    """One sentence for each key that is wrong.

    Args:
        error: from pydantic.
        root: the model of the whole config.
        source: the file that the sentences name.
    """
    for part in error.errors():
        location = [step for step in part["loc"] if step not in ("[key]", *UNION_TAGS)]
        cause = part.get("ctx", {}).get("error")
        wrong = cause.sentences if isinstance(cause, WrongKeysError) else {"": _sentence(part, location, root)}
        for key, sentence in wrong.items():
            where = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join([*map(str, location), *filter(None, [key])]))
            # A hint in brackets at the end takes in where the key is.
            before, after = (sentence[:-1], "; ") if sentence.endswith(")") else (sentence, " (")
            yield f"{before}{after}{source}: {where})"


def _sentence(part: Mapping[str, Any], location: list[int | str], root: type[Section]) -> str:
    kind, value, context = part["type"], part["input"], part.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return f"expected the key {location[-1]}, which has no default"
    if kind == "extra_forbidden":
        keys = list(_section_at(location, root).model_fields)
        return f"expected one of the keys {', '.join(keys)}, got {location[-1]!r}{nearest(str(location[-1]), keys)}"
    expected = _EXPECTED[kind].format(**context) if kind in _EXPECTED else str(part["msg"])
    expected = _PATTERNS.get(expected, expected)
    hint = nearest(str(value), re.findall(r"'([^']+)'", expected)) if kind == "literal_error" else ""
    if kind in ("float_type", "int_type") and isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", value, re.I):
        hint = " (YAML reads this as text: write 5.0e-4, with a point and a sign)"
    return f"expected {expected}, got {_shown(value)}{hint}"


def _section_at(location: list[int | str], root: type[Section]) -> type[Section]:
    """Model of the section that holds the key at ``location``. A name that the user chose leads no further."""
    section = root
    for step in location[:-1]:
        if field := section.model_fields.get(str(step)):
            section = section_in(field.annotation) or section
    return section


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 60 else text[:57] + "..."
