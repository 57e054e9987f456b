"""``config.yaml`` and ``configs/schema.json`` as the models write them: keys, defaults, and descriptions as comments."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from inspect import get_annotations, getdoc
from typing import Any

from relstab.config.config import Config
from relstab.config.section import Section, section_in
from relstab.config.training import Recipe

WIDTH = 130

HEAD = f"""\
# yaml-language-server: $schema=configs/schema.json
#
# {getdoc(Config)} An overlay replaces single keys:
#   snakemake all_figures --cores 8 --configfile configs/smoke.yaml
# After a change, run again: only what depends on the changed key is made again.
# The models in src/relstab/config write this file: `make schema`.
"""


def config_yaml() -> str:
    """The default config."""
    return HEAD + "".join(f"{line}\n" for line in _keys(Config, ""))


def json_schema() -> str:
    """JSON schema of the configuration, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def _keys(section: type[Section], indent: str) -> Iterator[str]:
    """Lines of a section. One that extends another section shows what it changes."""
    for name in get_annotations(section):
        field = section.model_fields[name]
        inner = section_in(field.annotation)
        if not indent:
            yield ""
        if inner is None:
            yield from _comment(field.description, indent)
            yield f"{indent}{name}: {as_yaml(field.default)}"
        elif field.default_factory:
            yield from _comment(getdoc(inner), indent)
            yield f"{indent}{name}:"
            yield from _keys(inner, indent + "  ")
        else:
            yield from _comment(field.description, indent)
            yield from _entries(name, field.default, inner, indent)


def _entries(name: str, entries: Mapping[str, Mapping[str, Any]], inner: type[Section], indent: str) -> Iterator[str]:
    """Lines of a section whose keys are names: the first entry explains the keys; where there is none, comments do."""
    if not entries:
        for key, field in inner.model_fields.items():
            yield from _comment(f"{key}: {field.description}", indent, "  ")
        yield f"{indent}{name}: {as_yaml(entries)}"
        return
    yield f"{indent}{name}:"
    for number, (entry, values) in enumerate(entries.items()):
        yield f"{indent}  {entry}:"
        for key, value in values.items():
            if number == 0 and inner is not Recipe:
                yield from _comment(inner.model_fields[key].description, f"{indent}    ")
            yield f"{indent}    {key}: {as_yaml(value)}"


def _comment(text: str | None, indent: str, bullet: str = "") -> Iterator[str]:
    lines = textwrap.wrap(str(text), WIDTH - len(indent) - 2 - len(bullet), break_long_words=False, break_on_hyphens=False)
    for line in lines:
        yield f"{indent}# {bullet}{line}"


def as_yaml(value: Any) -> str:
    """A default as ``config.yaml`` shows it."""
    if isinstance(value, list):
        return f"[{', '.join(map(as_yaml, value))}]"
    return value if isinstance(value, str) and re.fullmatch(r"\w+", value) else json.dumps(value)


FILES = {"config.yaml": config_yaml, "configs/schema.json": json_schema}
"""What the models write, by the path in the checkout."""
