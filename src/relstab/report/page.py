"""The page: sentences, figures and tables in one HTML file."""

import base64
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle

from relstab.data.datasets import dataset_label
from relstab.figures import FIGURES
from relstab.figures.style import label_of, mark, trained_architectures
from relstab.report.words import (
    CLAIM_FIGURES,
    correlation_sentences,
    figure_title,
    first_rows,
    run_sentences,
    shown_verdicts,
    verdict_sentence,
)
from relstab.tables.networks import keys_of, output_sensitivities
from relstab.tables.number_text import interval_text, number_text

__all__ = ["render_report"]

_TABLES = {
    "networks": "Networks: test error, training loss, and whether each network learned.",
    "correlation": "Correlation of the logarithms of test error and of D, G and R of the output.",
    "scale_detection_correlation": "The same correlations for deep networks on the scale-detection task on images.",
    "scale_detection": "Exponents of D_k and G_k against the effective receptive field A_k: fitted, predicted, closed form.",
    "scale_detection_networks": "Deep networks on the scale-detection task on images.",
}
"""Tables that the page shows, with a description of each; the others are files beside it."""

_PIXELS_PER_INCH = 130
"""At which the page shows figures, whatever their resolution: their text has then about the size of the page's."""


def _cell(value: Any) -> dict[str, Any]:
    """Text of a cell, and the key by which it is sorted."""
    if isinstance(value, bool):
        return {"text": "yes" if value else "no", "sort": str(int(value))}
    if isinstance(value, float):
        return {"text": number_text(value, ".4g"), "sort": "" if pd.isna(value) else repr(value)}
    return {"text": str(value), "sort": str(value)}


def _rows(table: pd.DataFrame) -> list[list[dict[str, Any]]]:
    return [[_cell(value) for value in row] for row in table.astype(object).itertuples(index=False)]


def _claims(claims: pd.DataFrame, extra: Sequence[str], shown: set[str]) -> list[dict[str, Any]]:
    """Claims with their ``extra`` columns and the figures of this run that show them."""
    rows = []
    first = set(first_rows(claims).index)
    for index, row in zip(claims.index, claims.assign(verdict=shown_verdicts(claims)).to_dict("records"), strict=True):
        rows.append(
            {
                **{name: str(row[name]) for name in ("claim", "statement", "verdict")},
                "first": index in first,
                "class": str(row["verdict"]).replace(" ", "-"),
                "statistic": _cell(float(row["statistic"])) | {"text": number_text(row["statistic"], ".3g")},
                "interval": interval_text(row["low"], row["high"], ".3g"),
                "extra": [_cell(row[name])["text"] for name in extra],
                "figures": [(name, figure_title(name).split(".")[0]) for name in CLAIM_FIGURES[row["claim"]] if name in shown],
            }
        )
    return rows


def _points(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> list[dict[str, Any]]:
    """Error and D, G, R of the output of each network that learned, for the picture that answers "which network is this?"."""
    outputs, keys = output_sensitivities(networks, sensitivity), keys_of(networks)[1:]
    return [
        {
            "name": " ".join(f"{key} {label_of(row[key]) if key == 'architecture' else row[key]}" for key in keys),
            "architecture": row["architecture"],
            "state": row["state"],
            "noise": f"{row['noise']:g}",
            "error": row["error"],
            **{name: row[name] for name in ("D", "G", "R")},
        }
        for row in outputs.to_dict("records")
    ]


def _looks(networks: pd.DataFrame) -> list[dict[str, str]]:
    """Name, label, colour and outline of each architecture, as in the figures; outlines are paths of SVG of radius about 0.5."""
    looks = []
    for name in trained_architectures(networks):
        look = mark(name)
        style = MarkerStyle(look["marker"])
        polygons = map(np.asarray, style.get_path().transformed(style.get_transform()).to_polygons())
        outline = "".join("M" + "L".join(f"{x:.3f} {-y:.3f}" for x, y in polygon) + "Z" for polygon in polygons)
        looks.append({"name": name, "label": label_of(name), "colour": to_hex(look["color"]), "outline": outline})
    return looks


def _inches(png: bytes, dpi: int) -> float:
    """Width of a figure."""
    return int.from_bytes(png[16:20]) / dpi


def _times(benchmarks: Path) -> pd.DataFrame:
    """Seconds and memory of the jobs of each rule, from the files that Snakemake wrote beside them."""
    rows = []
    for path in sorted(benchmarks.rglob("*.tsv")):
        measured = pd.read_csv(path, sep="\t", na_values="-").iloc[-1]
        rule = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        rows.append({"rule": rule, "seconds": float(measured["s"]), "memory": float(measured["max_rss"])})
    if not rows:
        return pd.DataFrame(columns=["rule", "jobs", "minutes", "largest memory (MB)"])
    by_rule = pd.DataFrame(rows).groupby("rule", sort=False)
    table = by_rule.agg(jobs=("seconds", "size"), minutes=("seconds", "sum"), memory=("memory", "max")).reset_index()
    table["minutes"] /= 60
    return table.rename(columns={"memory": "largest memory (MB)"}).sort_values("minutes", ascending=False)


def render_report(
    tables: Mapping[str, pd.DataFrame],
    figures: Sequence[str | Path],
    config: Mapping[str, Any],
    benchmarks: str | Path,
    versions: Mapping[str, str],
) -> str:
    """The report of a run as one HTML page that makes no request.

    Args:
        tables: by name; "claims", "networks", "sensitivity" and "correlation" must be among them.
        figures: PNG files, named as in :data:`relstab.figures.FIGURES`, in whose order the page shows them.
        config: of the run, with all its keys.
        benchmarks: folder of the files in which Snakemake wrote times and memory of the jobs.
        versions: of the programs, by name.
    """
    pictures = {Path(path).stem: Path(path).read_bytes() for path in figures}
    order = [name for name in FIGURES if name in pictures]
    claims = tables["claims"]
    shown_tables = [
        {
            "name": name,
            "words": words,
            "columns": list(tables[name].columns),
            "rows": _rows(tables[name]),
        }
        for name, words in _TABLES.items()
        if name in tables
    ]
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    source = importlib.resources.files("relstab.report").joinpath("page.html").read_text(encoding="utf-8")
    extra = [name for name in claims.columns if name not in ("claim", "statement", "statistic", "low", "high", "verdict")]
    times = _times(Path(benchmarks))
    return template.from_string(source).render(
        title=f"relstab on {dataset_label(config['data'])}",
        confidence=f"{config['correlation']['confidence']:.0%}",
        measured=run_sentences(config, tables["networks"]),
        found=[verdict_sentence(claims), *correlation_sentences(tables["correlation"], config["data"])],
        claims=_claims(claims, extra, set(order)),
        claim_columns=extra,
        figures=[
            {
                "name": name,
                "title": figure_title(name),
                "caption": FIGURES[name].caption,
                "picture": base64.b64encode(pictures[name]).decode(),
                "width": round(_PIXELS_PER_INCH * _inches(pictures[name], config["figures"]["dpi"])),
            }
            for name in order
        ],
        tables=shown_tables,
        files=sorted(tables),
        points=json.dumps(_points(tables["networks"], tables["sensitivity"])),
        looks=json.dumps(_looks(tables["networks"])),
        times={"columns": list(times.columns), "rows": _rows(times)},
        versions=versions,
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
    )
