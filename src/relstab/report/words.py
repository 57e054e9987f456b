"""What a run measured and what it found, in sentences."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from relstab.data.datasets import dataset_label
from relstab.figures import FIGURES
from relstab.figures.style import label_of
from relstab.tables.number_text import with_interval

__all__ = [
    "CLAIM_FIGURES",
    "correlation_sentences",
    "figure_title",
    "first_rows",
    "run_sentences",
    "shown_verdicts",
    "verdict_sentence",
]

CLAIM_FIGURES = {
    "1": ["fig01_relative_sensitivity", "fig10_error_scatter"],
    "1'": ["initialization"],
    "2": ["fig01_relative_sensitivity", "fig10_error_scatter"],
    "2'": ["initialization"],
    "3": ["fig01_relative_sensitivity", "fig10_error_scatter"],
    "4": ["fig03_shuffled_layers"],
    "5": ["fig03_shuffled_layers"],
    "5a": ["fig03_shuffled_layers"],
    "5b": ["fig03_shuffled_layers"],
    "6": ["fig04_filter_spectra"],
    "7a": ["fig07_pooling_scaling"],
    "7b": ["initialization"],
    "7c": ["initialization"],
    "8": ["fig06_scale_detection_errors", "fig08_deep_scale_detection"],
    "9": ["fig07_pooling_scaling"],
    "10": ["fig07_pooling_scaling"],
    "11": ["relu_tanh"],
    "12": ["fig01_relative_sensitivity"],
    "12a": ["fig01_relative_sensitivity"],
    "12b": ["fig01_relative_sensitivity"],
}
"""Figures that show what each claim is about."""
_NO_NETWORKS = "no networks"
_VERDICTS = ("supported", "not supported", "undecided", _NO_NETWORKS)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def figure_title(name: str) -> str:
    """Heading of a figure: "Figure 3. Shuffled layers" for ``fig03_shuffled_layers``, "ReLU and tanh" beyond the paper."""
    number = re.match(r"fig(\d+)_", name)
    words = name.removeprefix(number[0]) if number else name
    title = (FIGURES[name].title if name in FIGURES else "") or words.replace("_", " ").capitalize()
    return f"Figure {int(number[1])}. {title}" if number else title


def run_sentences(config: Mapping[str, Any], networks: pd.DataFrame) -> list[str]:
    """What was trained and measured.

    Args:
        config: of the run, with all its keys.
        networks: the table of this name.
    """
    architectures = [label_of(name) for name in networks["architecture"].unique()]
    levels = sorted(networks["noise"].unique())
    learned = int(networks["learned"].sum())
    probes = config["probes"]
    sizes = [f"{size:,}" for size in sorted(networks["test_images"].unique())]
    best = " Each is the network of the epoch with the lowest test error." if config["sensitivity"]["weights"] == "best" else ""
    sentences = [
        f"The run trained {_counted(len(networks), 'network')} on {dataset_label(config['data'])}: "
        f"{_counted(len(architectures), 'architecture')} ({_joined(architectures)}) at "
        f"{_counted(len(levels), 'noise level')} (sigma = {_joined([f'{level:g}' for level in levels])}), from "
        f"{_counted(networks['seed'].nunique(), 'seed')}.{_narrow(config, networks)}",
        f"{learned:,} of them learned; their test errors, on {_joined(sizes)} "
        f"images, are between {_error_range(networks)}.{best} Networks that did not learn are left out of correlations and "
        "figures.",
        f"The sensitivities D, G and R were measured with P = {probes['images']:,} test images, deformed by a displacement of "
        f"{probes['displacement']:g} {'pixel' if probes['displacement'] == 1 else 'pixels'} with cutoff c = {probes['cutoff']}.",
    ]
    return sentences if learned else [sentences[0], "None of them learned: errors are at chance.", sentences[2]]


def _narrow(config: Mapping[str, Any], networks: pd.DataFrame) -> str:
    """A sentence on the architectures whose width is not 1."""
    names = networks.loc[networks["dataset"] == config["data"]["name"], "architecture"].unique()
    widths = {name: (config["recipes"].get(name) or {}).get("width") or config["training"]["width"] for name in names}
    changed = [f"{label_of(name)} ({width:g})" for name, width in widths.items() if width != 1]
    return f" Not of full width, with the factor of their channels: {_joined(changed)}." if changed else ""


def _error_range(networks: pd.DataFrame) -> str:
    errors = networks.loc[networks["learned"], "test_error"]
    return f"{errors.min():.2%} and {errors.max():.2%}"


def first_rows(claims: pd.DataFrame) -> pd.DataFrame:
    """The first row of each claim, which is about the most networks."""
    return claims.drop_duplicates("claim")


def shown_verdicts(claims: pd.DataFrame) -> "pd.Series[str]":
    """The verdicts as the report shows them: "no networks" for a claim about which the run has none."""
    return claims["verdict"].astype(str).where(claims["networks"] > 0, _NO_NETWORKS)


def verdict_sentence(claims: pd.DataFrame) -> str:
    """How many claims have which verdict, and which have one, over the most networks."""
    rows = first_rows(claims)
    verdicts = shown_verdicts(rows)
    names = {verdict: list(rows["claim"][verdicts == verdict].astype(str)) for verdict in _VERDICTS}
    parts = [
        f"{len(those)} {'with ' * (verdict == _NO_NETWORKS)}{verdict} ({', '.join(those)})"
        for verdict, those in names.items()
        if those
    ]
    count = sum(map(len, names.values()))
    return f"Of {_counted(count, 'claim')}, this run finds {_joined(parts)}." if count else "No claim has a verdict."


def correlation_sentences(correlation: pd.DataFrame, data: Mapping[str, Any]) -> list[str]:
    """How test error and sensitivity of the trained networks are correlated, one sentence per noise level.

    Args:
        correlation: the table of this name.
        data: section of the config.
    """
    sentences = []
    trained = correlation[(correlation["state"] == "trained") & (correlation["group"] == "all")]
    for noise, rows in trained.groupby("noise"):
        by_name = rows.drop_duplicates("sensitivity").set_index("sensitivity")
        values = [
            f"rho(eps, {name}) = {with_interval(row['rho'], row['low'], row['high'])}"
            for name, row in by_name.iterrows()
            if pd.notna(row["rho"])
        ]
        count = int(by_name["networks"].max())
        text = _joined(values) if values else "too few for a correlation"
        sentences.append(f"On {dataset_label(data)} at noise {noise:g}, over {_counted(count, 'network')}: {text}.")
    return sentences
