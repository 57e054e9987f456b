"""The config as typed, described models, one module per section, checked as a whole before any job starts.

The models are the only place of defaults, bounds and descriptions: they write ``config.yaml`` and ``configs/schema.json``.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from relstab.config.config import Config
from relstab.config.document import json_schema
from relstab.config.imagenet import IMAGENET
from relstab.config.messages import ConfigError, sentences
from relstab.config.text import check_text
from relstab.config.training import RECIPE_VERSION, Recipe, Training

__all__ = [
    "Config",
    "ConfigError",
    "IMAGENET",
    "RECIPE_VERSION",
    "Recipe",
    "Training",
    "check_text",
    "json_schema",
    "load_config",
]


def load_config(raw: Mapping[str, Any], source: str = "config.yaml") -> Config:
    """Checked configuration from parsed YAML.

    Args:
        raw: nested dicts, lists and values.
        source: the file that messages name.

    Raises:
        ConfigError: one sentence per wrong key.
    """
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error, Config, source))) from None
