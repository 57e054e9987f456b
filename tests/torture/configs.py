"""Configs with slips, and with values drawn by hypothesis: each is read as it is written, or refused with a sentence."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from relstab.config import ConfigError, check_text, load_config

from helpers import ROOT
from torture.count import Count

__all__ = ["break_configs", "draw_configs"]


def leaves(values: dict, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield from leaves(value, (*above, key)) if isinstance(value, dict) and value else [(*above, key)]


def break_configs(folder: Path, count: Count, moments: random.Random, number: int) -> None:
    """A slip in one line of the default config, or a value that no key takes."""
    default = (ROOT / "config.yaml").read_text()
    path = folder / "config.yaml"
    keys = list(leaves(yaml.safe_load(default)))
    values = (float("nan"), float("inf"), -1, 10**30, "$HOME", "{x}", {"no": 1}, [[]], "", b"x", -0.5)
    written = [line for line in default.splitlines() if line and not line.lstrip().startswith("#")]

    def read() -> object:
        check_text(path)
        loaded = yaml.safe_load(path.read_text())
        return load_config(loaded or {}, str(path))

    path.write_text(default)
    count.attempt("none", path.name, read, True)
    for _ in range(number):
        *above, key = moments.choice(keys)
        value = moments.choice(values)
        changed = yaml.safe_load(default)
        section = changed
        for step in above:
            section = section[step]
        section[key] = value
        path.write_text(yaml.safe_dump(changed, allow_unicode=True))
        try:
            taken: Any = read()
            for step in (*above, key):
                taken = taken[step] if isinstance(taken, dict) else getattr(taken, step)
            # Some keys take some of these.
            count.attempt("config: value", path.name, lambda: None, taken == value)
        except (ConfigError, ValueError) as error:
            count.attempt("config: value", path.name, lambda error=error: (_ for _ in ()).throw(error), False)
        line = moments.choice(written)
        slips = {
            "config: key twice": default + line.split(":")[0] + ": 1\n" if not line.startswith(" ") else None,
            "config: octal": default.replace("\nseed: 0", f"\nseed: 0{moments.randrange(10, 77)}"),
            "config: sexagesimal": default.replace("\nseed: 0", f"\nseed: {moments.randrange(1, 9)}:{moments.randrange(10, 59)}"),
            "config: tab": default.replace("\n  epochs:", "\n\tepochs:", 1),
            "config: two documents": default + "\n---\nseeds: 1\n",
            "config: anchor": default + "\nx: &a [*a]\n",
        }
        for fault, text in slips.items():
            if text is not None and text != default:
                path.write_text(text)
                count.attempt(fault, path.name, read, False)


NUMBERS = st.integers(-(10**12), 10**12) | st.floats(width=64)
PLAIN = NUMBERS | st.booleans() | st.none() | st.text(max_size=8)
VALUES = PLAIN | st.lists(PLAIN, max_size=4) | st.dictionaries(st.text(max_size=5), PLAIN, max_size=2)


def draw_configs(count: Count, moments: random.Random, number: int) -> None:
    """One to three keys with values of hypothesis, near the default or far from it, with one message per wrong key."""
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    keys = list(leaves(default))

    def near(key: tuple[str, ...]) -> st.SearchStrategy[Any]:
        value: Any = default
        for step in key:
            value = value[step]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return st.just(value) | VALUES
        return st.sampled_from([value, value + 1, 2 * value, value / 2, -value, 1000 * value]) | VALUES

    changes = st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True).flatmap(
        lambda chosen: st.tuples(*(st.tuples(st.just(key), near(key)) for key in chosen))
    )

    @seed(moments.randrange(2**32))
    @settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(changes)
    def try_config(drawn: tuple[tuple[tuple[str, ...], Any], ...]) -> None:
        raw = yaml.safe_load((ROOT / "config.yaml").read_text())
        for (*above, key), value in drawn:
            section = raw
            for step in above:
                section = section[step] if isinstance(section, dict) else {}
            section[key] = value
        described = ", ".join(f"{'.'.join(key)}: {value!r}" for key, value in drawn)

        def read() -> object:
            try:
                config = load_config(raw)
            except ConfigError as error:
                named = all("(config.yaml: " in line or "; config.yaml: " in line for line in str(error).splitlines())
                raise ValueError(f"config.yaml: {error}" if named else "no key") from None
            # What was taken is taken again, as the same config.
            assert load_config(config.model_dump()) == config
            return config

        count.attempt("config: drawn", "config.yaml", read, True)
        assert not count.wrong, described

    try:
        try_config()
    except AssertionError as error:
        count.wrong.append(f"config: drawn, {error}")
