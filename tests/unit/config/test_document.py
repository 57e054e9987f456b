"""config.yaml and the schema are what the models write, and the models are the only place of defaults."""

import re
import runpy
import sys
from collections.abc import Iterator
from inspect import getdoc

import pytest
import yaml

from relstab.config import Config, json_schema, load_config
from relstab.config.document import FILES, config_yaml
from relstab.config.messages import _PATTERNS
from relstab.config.section import Section, section_in

from helpers import ROOT


@pytest.mark.parametrize("path", FILES)
def test_the_shipped_files_are_those_of_the_models(path):
    assert (ROOT / path).read_text() == FILES[path](), "run `make schema`"


def test_the_command_writes_both_files_and_checks_them(tmp_path, monkeypatch):
    def command(*arguments):
        """What `python -m relstab.config` ends with."""
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["relstab.config", *arguments])
            try:
                runpy.run_module("relstab.config", run_name="__main__", alter_sys=True)
            except SystemExit as end:
                return end.code
        return None

    (tmp_path / "configs").mkdir()
    assert command("--check").startswith("expected config.yaml and configs/schema.json as the models write them")
    assert command() is None
    assert command("--check") == 0
    (tmp_path / "config.yaml").write_text(config_yaml().replace("seeds: 2", "seeds: 3"))
    assert command("--check") == "expected config.yaml as the models write them: run `make schema`"


def test_defaults_are_those_of_the_config():
    raw = yaml.safe_load(config_yaml())
    assert load_config(raw).model_dump() == Config().model_dump()


def undocumented(section: type[Section], raw: dict, prefix: str = "") -> Iterator[str]:
    """Keys of the models that a config does not show, or shows without a comment."""
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        nested = inner is not None and field.default_factory
        if name not in raw or not (getdoc(inner) if nested else field.description):
            yield f"{prefix}{name}"
        elif nested:
            yield from undocumented(inner, raw[name], f"{prefix}{name}.")


def test_every_key_is_shown_with_its_meaning():
    # The training of pair networks shows only what differs from training.
    missing = [key for key in undocumented(Config, yaml.safe_load(config_yaml())) if "images.training." not in key]
    assert missing == []
    assert max(map(len, config_yaml().splitlines())) <= 130


def test_the_first_experiment_explains_every_key_of_an_experiment():
    raw = yaml.safe_load(config_yaml())["scale_detection"]["simple"]
    inner = section_in(type(Config().scale_detection).model_fields["simple"].annotation)
    assert list(raw["task1_stride1"]) == list(inner.model_fields)


def test_every_pattern_has_words():
    """A message gives the words in place of the regular expression."""
    assert set(re.findall(r"\"(\^.*\$)\"", json_schema().replace("\\\\", "\\"))) == set(_PATTERNS)
