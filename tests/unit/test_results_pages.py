"""Pages about results: every number is recomputed from the tables of the run that it names."""

import importlib.util
import subprocess
import sys

import pytest

from relstab.tables.claims import claim_table
from relstab.tables.networks import correlation_table

from helpers import ROOT, synthetic

_spec = importlib.util.spec_from_file_location("recompute", ROOT / "docs/recompute.py")
pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pages)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A run in whose networks the error is 0.2 sqrt(R)."""
    folder = tmp_path_factory.mktemp("runs") / "made_up"
    folder.mkdir()
    networks, sensitivity, spectrum = synthetic()
    tables = {
        "networks": networks,
        "outputs": sensitivity,
        "correlation": correlation_table(networks, sensitivity, resamples=100),
        "claims": claim_table(networks, sensitivity, spectrum, resamples=100),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return {"made_up": pages.Run(folder), "number": pages.number}


def test_the_pages_have_the_numbers_of_their_runs():
    done = subprocess.run([sys.executable, ROOT / "docs/recompute.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numbers_and_tables_are_recomputed(names):
    count = 'len(made_up.outputs.query("noise == 0"))'
    before = f'rho is <!-- = made_up.rho_value("R") -->0.12<!-- / -->; <!-- = {count} -->?<!-- / -->.\n'
    after = pages.recompute(before, names, "page.md")
    assert float(pages.MARK.findall(after)[0][1]) == pytest.approx(1)
    assert after.endswith("-->12<!-- / -->.\n")
    assert pages.recompute(after, names, "page.md") == after
    table = pages.recompute("<!-- = made_up.network_table() --><!-- / -->\n", names, "page.md")
    assert (
        len([line for line in table.splitlines() if line.startswith("| 0 |")])
        == names["made_up"].outputs["architecture"].nunique()
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'a\nb <!-- holds: made_up.rho_value("R") < 0 -->',
            "page.md, line 2: expected to hold: made_up.rho_value..R.. < 0: change the sentence",
        ),
        (
            "a <!-- = made_up.rho(3) -->0<!-- / -->",
            r"page.md, line 1: expected an expression about a run, got 'made_up.rho.3.'",
        ),
        ("<!-- = number(1) -->0<!-- / --> or more", "page.md, line 1: expected a word before the number"),
    ],
)
def test_what_is_not_so_is_one_sentence(names, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        pages.recompute(text, names, "page.md")


def test_a_number_without_a_mark_is_refused(names):
    marked = "<!-- = number(1) -->1.00<!-- / -->"
    with pytest.raises(ValueError, match=r"expected each decimal number of results.md between marks, got 0.78 without"):
        pages.recompute(f"rho is 0.78, not {marked}", names, "results.md")
    assert pages.recompute(f"`0.78`, version 1.2.3, {marked}", names, "results.md")


def test_a_verdict_that_differs_between_runs_is_undecided(names, tmp_path):
    claims = names["made_up"].tables["claims"].copy()
    decided = claims["verdict"] == "supported"
    assert decided.any()
    claims.loc[decided, "verdict"] = "not supported"
    folder = tmp_path / "other"
    folder.mkdir()
    claims.to_csv(folder / "claims.csv", index=False)
    other = pages.Run(folder)
    assert pages.contradictions(names["made_up"], other) == claims.loc[decided, "claim"].tolist()
    table = pages.same_claims(names["made_up"], other)
    assert (table.loc[table["verdicts"].map(len) == 2, "verdict"] == "undecided").all()
    assert pages.contradictions(other, pages.Run(folder.rename(tmp_path / "same"))) == []
