"""The text of a config, checked before YAML reads it: for keys given twice, and for numbers that YAML reads as others."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from relstab.config.messages import ConfigError

__all__ = ["check_text"]

_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_LARGEST = 100_000
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def check_text(path: str | Path) -> None:
    """Refuse a file of YAML or JSON whose text says one thing and would be read as another.

    Raises:
        ConfigError: one sentence with the file and the line.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: expected text in UTF-8, got the byte {error.object[error.start]:#04x}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    try:
        json.loads(text, object_pairs_hook=lambda pairs: _distinct(path, pairs))
        return
    except json.JSONDecodeError:
        pass
    try:
        documents = list(yaml.compose_all(text, yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        tab = ": indent with spaces" if "\\t" in str(error.problem) else ""
        raise ConfigError(f"{path}, line {line}: expected YAML, got an error ({error.problem}){tab}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, got an error ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise ConfigError(f"{path}: expected sections in sections, got them nested too deeply") from None
    if len(documents) > 1:
        line = documents[1].start_mark.line + 1
        raise ConfigError(f"{path}, line {line}: expected one document, got a second one: delete the line ---")
    wrong = [
        f"{path}, line {line}: {sentence}" for root in documents if root is not None for line, sentence in _wrong(root, (), set())
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    sizes: dict[int, int] = {}
    if documents and documents[0] is not None and _size(documents[0], sizes) > _LARGEST:
        raise ConfigError(f"{path}: expected at most {_LARGEST:,} values, got anchors that repeat them more often")


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of values in a node and below it, repeated ones counted each time."""
    if id(node) not in sizes:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_size(part, sizes) for part in parts))
    return sizes[id(node)]


def _distinct(path: str | Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"{path}: expected each key once, got {key!r} twice")
    return dict(pairs)


def _wrong(node: yaml.Node, above: tuple[yaml.Node, ...], seen_nodes: set[int]) -> Iterator[tuple[int, str]]:
    """Line and sentence of each error in a node and below it, once per node, since aliases can repeat it 10^9 times."""
    line = node.start_mark.line + 1
    if any(node is other for other in above):
        yield line, "expected an anchor of other values, got one that holds itself"
        return
    if id(node) in seen_nodes:
        return
    seen_nodes.add(id(node))
    if node.tag not in yaml.SafeLoader.yaml_constructors and node.tag != "tag:yaml.org,2002:merge":  # that of the key "<<"
        yield line, f"expected numbers, text, lists and sections, got the tag {node.tag}"
    elif isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and (_OCTAL.fullmatch(node.value) or _SEXAGESIMAL.fullmatch(node.value)):
            read = yaml.safe_load(node.value)
            yield line, f"expected a decimal number, got {node.value}, which YAML reads as {read}: write it out, or quote it"
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _wrong(item, (*above, node), seen_nodes)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            here = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    yield here, f"expected each key once, got {key.value!r} again, which is on line {seen[key.value]} too"
                seen[key.value] = here
            yield from _wrong(key, (*above, node), seen_nodes)
            yield from _wrong(value, (*above, node), seen_nodes)
