"""The text of a config: what YAML would read as something else than what is written is refused, with its line."""

import json
import sys
from pathlib import Path

import pytest

from relstab.config import Config, ConfigError, check_text, load_config

from helpers import ROOT


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seeds: 1\nnoise: [0]\nseeds: 2\n", "line 3: expected each key once, got 'seeds' again, which is on line 1 too"),
        ("data:\n  root: a\n  root: b\n", "line 3: expected each key once, got 'root' again, which is on line 2 too"),
        ("seeds: 010\n", "line 1: expected a decimal number, got 010, which YAML reads as 8: write it out, or quote it"),
        ("noise: [0,\n  1:30]\n", "line 2: expected a decimal number, got 1:30, which YAML reads as 90: .*"),
        ("noise: [1:30.5]\n", "line 1: expected a decimal number, got 1:30.5, which YAML reads as 90.5: .*"),
        ("noise: &a [*a]\n", "line 1: expected an anchor of other values, got one that holds itself"),
        ("seeds: 1\n---\nseeds: 2\n", "line 3: expected one document, got a second one: delete the line ---"),
        ("data:\n\tname: x\n", "line 2: expected YAML, got an error .*: indent with spaces"),
        ("noise: [0\n", "line 2: expected YAML, got an error .*"),
        ("a: 1\nresults: caf\xe9\n".encode("latin-1"), "line 2: expected text in UTF-8, got the byte 0xe9"),
        ('{"seeds": 1, "seeds": 2}', ": expected each key once, got 'seeds' twice"),
        ("noise: " + "[" * 1000 + "]" * 1000, ": expected sections in sections, got them nested too deeply"),
    ],
)
def test_the_file_and_the_line_are_named(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = f"{path}: " if sentence.startswith(": ") else f"{path}, "
    beginning = sentence.removeprefix(": ").split(".*")[0]
    with pytest.raises(ConfigError) as caught:
        check_text(path)
    assert str(caught.value).startswith(start + beginning)
    assert str(caught.value).endswith(sentence.split(".*")[-1])
    assert sys.getrecursionlimit() < 5000


def test_what_is_written_plainly_passes(tmp_path):
    path = tmp_path / "mine.yaml"
    for text in (
        "",
        "seeds: 10\nnoise: [0, 0.5, 5.0e-4, -0]\na: &x {b: 0}\nc: *x\nd: {<<: *x, <<: *x}\n",
        '"a: 010"',
        "b: '010'",
    ):
        path.write_text(text)
        check_text(path)
    path.write_text(json.dumps({"seeds": 1}))
    check_text(path)
    for shipped in (ROOT / "config.yaml", *(ROOT / "configs").glob("*.yaml")):
        check_text(shipped)


def test_noise_levels_are_what_names_show():
    noise = load_config({"noise": [3.3333333333333335, 10, -0.0]}).noise
    assert list(map(str, noise)) == ["3.33333333333", "10.0", "0.0"]


def test_paths_are_expanded_in_one_place():
    config = load_config({"results": "~/x/", "data": {"root": "~/data"}, "imagenet": {"images": "~/i"}})
    home = Path.home()
    assert (config.results, config.data.root, config.imagenet.images) == (f"{home}/x", f"{home}/data", f"{home}/i")
    assert load_config({}).results == "results"


def test_every_number_has_a_bound_above():
    """Far beyond what can be computed, but a slip does not plan for ever."""

    def numbers(schema, where):
        if schema.get("type") in ("integer", "number"):
            yield where, schema
        for key in ("properties", "$defs"):
            for name, inner in schema.get(key, {}).items():
                yield from numbers(inner, f"{where}.{name}")
        for inner in [*schema.get("anyOf", []), *filter(None, [schema.get("items")])]:
            yield from numbers(inner, where)

    found = list(numbers(Config.model_json_schema(), ""))
    assert len(found) > 60
    assert [where for where, schema in found if not {"maximum", "exclusiveMaximum"} & schema.keys()] == []
