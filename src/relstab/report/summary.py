"""What a run found and where its files are, in a few lines for the terminal."""

from pathlib import Path

import pandas as pd

from relstab.report.words import first_rows, shown_verdicts, verdict_sentence
from relstab.tables.number_text import with_interval

__all__ = ["summary_lines"]


def _claim_rows(first: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Claim, verdict, statistic with its interval, statement."""
    rows = []
    for row in first.to_dict("records"):
        statistic = with_interval(row["statistic"], row["low"], row["high"])
        rows.append((str(row["claim"]), str(row["verdict"]), statistic, str(row["statement"])))
    return rows


def _report_line(results: Path, command: str) -> str:
    report, claims = results / "report.html", results / "tables/claims.csv"
    if not report.exists():
        return f"report   none yet: `{command}` writes it, one HTML page"
    if claims.exists() and report.stat().st_mtime < claims.stat().st_mtime:
        return f"report   {report}, of an earlier run: `{command}` writes it again"
    return f"report   {report}"


def summary_lines(claims: pd.DataFrame, results: str | Path, width: int, command: str = "snakemake report") -> list[str]:
    """The verdicts of the claims in one table, one line per claim, and where figures, tables and report are.

    Args:
        claims: the table of this name.
        results: folder of the run.
        width: of the lines; statements are cut off at it.
        command: writes the report of this run.
    """
    first = first_rows(claims)
    first = first.assign(verdict=shown_verdicts(first))
    rows = [("claim", "verdict", "statistic", "statement"), *_claim_rows(first)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row in rows:
        line = "  ".join([*(text.ljust(size) for text, size in zip(row[:3], widths, strict=True)), row[3]])
        lines.append(line if len(line) <= width else f"{line[: width - 1]}\N{HORIZONTAL ELLIPSIS}")
    results = Path(results)
    figures = len(list((results / "figures").glob("*.png")))
    without = first.loc[(first["verdict"] == "undecided") & first["low"].isna(), "claim"].astype(str)
    why = f"No interval, for want of networks that learned or of architectures: {', '.join(without)} (docs/conventions.md)"
    return [
        *lines,
        verdict_sentence(claims),
        *([why] if len(without) else []),
        f"figures  {results / 'figures'} ({figures}, as PDF and PNG)",
        f"tables   {results / 'tables'} (the claims above: claims.csv)",
        _report_line(results, command),
    ]
