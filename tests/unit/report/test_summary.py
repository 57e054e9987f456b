"""The few lines at the end of a run."""

import os

import numpy as np
import pandas as pd

from relstab.report import summary_lines

CLAIMS = pd.DataFrame(
    [
        ("1", "rho(eps, R) is positive", -0.23, -0.43, -0.02, "not supported", "all", 6),
        ("1", "rho(eps, R) is positive", 0.5, 0.1, 0.9, "supported", "convolutional", 4),
        ("7a", "training raises G_k", np.nan, np.nan, np.nan, "undecided", "convolutional", 2),
    ],
    columns=["claim", "statement", "statistic", "low", "high", "verdict", "group", "networks"],
)


def test_each_claim_is_one_line_about_the_most_networks(tmp_path):
    lines = summary_lines(CLAIMS, tmp_path, 100)
    interval = "-0.23 [-0.43, -0.02]".replace("-", "\N{MINUS SIGN}")
    assert [line.split() for line in lines[1:3]] == [
        ["1", "not", "supported", *interval.split(), "rho(eps,", "R)", "is", "positive"],
        ["7a", "undecided", "training", "raises", "G_k"],
    ]
    # Columns stand below their heads.
    assert len({line.index(word) for line, word in zip(lines, ("statement", "rho", "training"), strict=False)}) == 1
    assert lines[3] == "Of 2 claims, this run finds 1 not supported (1) and 1 undecided (7a)."
    assert lines[4] == "No interval, for want of networks that learned or of architectures: 7a (docs/conventions.md)"


def test_lines_fit_the_terminal(tmp_path):
    lines = summary_lines(CLAIMS, tmp_path, 50)
    assert [len(line) for line in lines[:2]] == [min(50, len(line)) for line in summary_lines(CLAIMS, tmp_path, 500)[:2]]
    assert lines[1].endswith("…")


def test_files_are_where_it_says(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/fig01.png").touch()
    figures, tables, report = summary_lines(CLAIMS, tmp_path, 100)[-3:]
    assert f"{tmp_path / 'figures'} (1, as PDF and PNG)" in figures
    assert str(tmp_path / "tables") in tables
    assert "snakemake report" in report
    (tmp_path / "report.html").touch()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/claims.csv").touch()
    os.utime(tmp_path / "report.html", (1, 1))
    command = "snakemake report --configfile mine.yaml"
    assert f"of an earlier run: `{command}` writes it again" in summary_lines(CLAIMS, tmp_path, 100, command)[-1]
    os.utime(tmp_path / "report.html")
    assert summary_lines(CLAIMS, tmp_path, 100)[-1] == f"report   {tmp_path / 'report.html'}"
