"""Numbers in the pages about results, recomputed from the tables of the runs that they name.

    python docs/recompute.py                       # write every number again
    python docs/recompute.py --check               # stop at the first that differs
    python docs/recompute.py --add results/digits  # first copy the tables and figures of a run to docs/results/digits

A number in a page is between two comments, the first with an expression: `<!-- = digits.rho("R") -->0.64<!-- / -->`. So is a
table. `<!-- holds: digits.value("1") < 0 -->` is what a sentence in words relies on. An expression names its run, a folder of
docs/results; what a run offers is in :class:`Run`. Pages without such marks are left alone. In those of ``PAGES`` that have some,
decimal numbers outside of marks and of `code` are refused.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import linregress
from scipy.stats import t as student

from relstab.architectures import ARCHITECTURES
from relstab.figures.authors import efficientnet, geometric_means, training_set_sizes
from relstab.files.hdf5 import read_attributes
from relstab.tables.networks import keys_of, output_sensitivities, read_table
from relstab.tables.noise_ratio import noise_ratio
from relstab.tables.number_text import number_text, with_interval

DOCS = Path(__file__).parent
RUNS = DOCS / "results"
# Pages about results, of which every decimal number has a mark.
PAGES = ("results.md", "digits.md", "scale_detection.md")
# Tables that are copied as they are, and figures.
TABLES = ("networks", "claims", "correlation", "scale_detection", "scale_detection_networks", "scale_detection_correlation")
FIGURES = ("fig01*", "fig03*", "fig04*", "fig07*", "fig10*", "fig11*", "training_sizes")
MARK = re.compile(r"<!-- = (.*?) -->(.*?)<!-- / -->", re.DOTALL)
CONDITION = re.compile(r"<!-- holds: (.*?) -->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-−]?\d+\.\d+(?!\w|\.\d)")


def number(value: float, digits: int = 2) -> str:
    """A number with this many decimals; a dash where there is none."""
    return number_text(value, f".{digits}f", missing="–")


def interval(row: pd.Series, name: str, digits: int = 2) -> str:
    """A statistic with the two ends of its interval, where it has one."""
    return with_interval(row[name], row["low"], row["high"], f".{digits}f", missing="–")


def _with_ends(row: pd.Series, name: str) -> str:
    return interval(pd.Series({name: row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}), name)


def _spreads(means: Iterable[float], spreads: Iterable[float]) -> list[str]:
    """Geometric means with the standard deviation of the logarithm over seeds, in percent."""
    return [f"{number(mean)} (±{100 * spread:.0f}%)" for mean, spread in zip(means, spreads, strict=True)]


def markdown(head: str, rows: Iterable[Iterable[Any]]) -> str:
    """A table, in lines of its own; ``head`` holds the names of the columns, with | between them."""
    lines = [f"| {head} |", "|" + "---|" * len(head.split(" | ")), *(f"| {' | '.join(map(str, row))} |" for row in rows)]
    return "\n\n" + "\n".join(lines) + "\n\n"


class Run:
    """The tables of one run, and numbers from them."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.tables = {path.stem: read_table(path) for path in sorted(folder.glob("*.csv"))}
        self.facts = dict(self.tables["run"].itertuples(index=False)) if "run" in self.tables else {}

    def _row(self, table: str, **keys: Any) -> pd.Series:
        rows = self.tables[table]
        for name, value in keys.items():
            rows = rows[rows[name].astype(str) == str(value)] if name in rows else rows
        if len(rows) != 1:
            raise LookupError(f"expected one row of {self.name}/{table}.csv with {keys}, got {len(rows)}")
        return rows.iloc[0]

    def _claim(self, claim: str, group: str, decided_by: str | None) -> pd.Series:
        keys = {"claim": claim, "group": group} | ({} if decided_by is None else {"decided_by": decided_by})
        return self._row("claims", **keys)

    def claim(self, claim: str, group: str = "all", decided_by: str | None = None) -> str:
        """Statistic of a claim with its interval."""
        return interval(self._claim(claim, group, decided_by), "statistic")

    def value(self, claim: str, group: str = "all", decided_by: str | None = None) -> float:
        """Statistic of a claim."""
        return float(self._claim(claim, group, decided_by)["statistic"])

    def verdict(self, claim: str, group: str = "all", decided_by: str | None = None) -> str:
        """Verdict on a claim."""
        return str(self._claim(claim, group, decided_by)["verdict"])

    def _rho(self, name: str, noise: float, group: str, state: str, size: Any, table: str) -> pd.Series:
        keys = {"sensitivity": name, "noise": float(noise), "group": group, "state": state, "training_images": size}
        return self._row(table, **keys)

    def rho(self, name: str, noise: float = 0, group: str = "all", state: str = "trained", size: Any = "all",
            table: str = "correlation") -> str:  # fmt: skip
        """Correlation of eps with X (D, G or R) and its interval; ``size`` where the size of the training set is an axis."""
        return interval(self._rho(name, noise, group, state, size, table), "rho")

    def rho_value(self, name: str, noise: float = 0, group: str = "all", state: str = "trained", size: Any = "all",
                  table: str = "correlation") -> float:  # fmt: skip
        """rho(eps, X)."""
        return float(self._rho(name, noise, group, state, size, table)["rho"])

    @property
    def outputs(self) -> pd.DataFrame:
        """One row per network that learned: keys, error, D, G, R, R_sem, and D_init, G_init, R_init."""
        outputs = output_sensitivities(self.tables["networks"], self.tables["outputs"])
        keys = keys_of(outputs)
        initial = outputs.loc[outputs["state"] == "init", [*keys, "D", "G", "R"]]
        return outputs[outputs["state"] == "trained"].merge(initial, on=keys, suffixes=("", "_init"))

    def mean(self, name: str, where: str = "error > 0", digits: int = 2) -> str:
        """Geometric mean of a column of :attr:`outputs` over the networks of a query."""
        return number(float(np.exp(np.log(self.outputs.query(where)[name]).mean())), digits)

    def range(self, name: str, where: str = "error > 0", digits: int = 2, scale: float = 1) -> str:
        """Least and largest value of a column of :attr:`outputs` over the networks of a query."""
        values = scale * self.outputs.query(where)[name]
        return f"{number(values.min(), digits)} to {number(values.max(), digits)}"

    def fact(self, name: str) -> str:
        """What run.csv says of the run: commit, device, torch, jobs, core_minutes."""
        return str(self.facts[name])

    def claims_table(self, group: str | None = "all") -> str:
        """All claims of a group, with those that are about convolutional networks only; None: of all groups."""
        table = self.tables["claims"]
        if group is not None:
            both = table.loc[table["group"] == group, "claim"].unique()
            table = table[(table["group"] == group) | ((table["group"] == "convolutional") & ~table["claim"].isin(both))]
        table = table[table["networks"] > 0]
        columns = "claim | about | statistic, interval | verdict | networks (architectures)"
        return markdown(columns, (
            (row["claim"], "; ".join(filter(None, [row["statement"].partition(":")[0], row["decided_by"]])),
             interval(row, "statistic"), row["verdict"], f"{row['networks']} ({row['architectures']})")
            for _, row in table.iterrows()))  # fmt: skip

    def correlation_table(self, state: str = "trained", size: Any = "all") -> str:
        """rho(eps, X) by noise level and group."""
        levels = sorted(self.tables["correlation"]["noise"].unique())
        return markdown("σ | networks | ρ(ε, D) | ρ(ε, G) | ρ(ε, R)", (
            (f"{noise:g}", group, *(self.rho(name, noise, group, state, size) for name in "DGR"))
            for noise in levels for group in ("all", "convolutional")))  # fmt: skip

    def sizes(self, architecture: str = "resnet18", confidence: float = 0.95) -> pd.DataFrame:
        """Geometric means over seeds of error, R and R_median of trained networks by training_images, with intervals."""
        outputs = self.outputs[self.outputs["architecture"] == architecture]
        return geometric_means(outputs, ["training_images"], ["error", "R", "R_median"], confidence, pooled=True)

    def size_slope(self, name: str, architecture: str = "resnet18", confidence: float = 0.95) -> str:
        """Slope of ln X, of R or error, against ln P over the trained networks, with its interval."""
        outputs = self.outputs[self.outputs["architecture"] == architecture]
        fit = linregress(np.log(outputs["training_images"]), np.log(outputs[name]))
        half = student.ppf((1 + confidence) / 2, len(outputs) - 2) * fit.stderr
        return with_interval(fit.slope, fit.slope - half, fit.slope + half)

    def sizes_table(self, dataset: str, architecture: str = "resnet18") -> str:
        """The same beside the authors' networks of the nearest size, on "mnist" or "cifar10"."""
        theirs = training_set_sizes()
        theirs = theirs[theirs["dataset"] == dataset]

        def rows() -> Iterable[Iterable[str]]:
            for _, own in self.sizes(architecture).iterrows():
                near = theirs.iloc[np.abs(np.log(theirs["training_images"] / own["training_images"])).argmin()]
                yield (
                    f"{own['training_images']:g}", f"{own['networks']:g}", number(own["error"], 4), _with_ends(own, "R"),
                    _with_ends(own, "R_median"), f"{near['training_images']:g}", number(near["error"], 4), _with_ends(near, "R"),
                    number(own["R"] / near["R"]),
                )  # fmt: skip

        head = "P | seeds | ε | R of means | R of medians | authors' P | authors' ε | authors' R | R of means / authors' R"
        return markdown(head, rows())

    def initial(self, name: str, convention: str = "relstab", displacement: float = 0.906) -> float:
        """Geometric mean over seeds of D, G or R of the table of docs/efficientnet_init.py."""
        rows = self.tables["initial"]
        rows = rows[(rows["displacement"] == displacement) & (rows["convention"] == convention)]
        return float(np.exp(np.log(rows[name]).mean()))

    def initial_table(self) -> str:
        """D, G and R of that table, beside the authors' EfficientNetB0."""
        theirs = efficientnet().query("cutoff == 3 and representation == 'output' and state == 'init'")

        def rows() -> Iterable[Iterable[str]]:
            for (displacement, convention), part in self.tables["initial"].groupby(["displacement", "convention"]):
                logs = np.log(part[["D", "G", "R"]])
                yield (f"{displacement:g}", convention, str(len(part)), *_spreads(np.exp(logs.mean()), logs.std()))
            for displacement in self.tables["initial"]["displacement"].unique():
                near = theirs.iloc[(theirs["displacement"] - displacement).abs().argmin()]
                spread = near[["D_logsd", "G_logsd", "R_logsd"]].to_numpy(float)
                measured = _spreads(near[["D", "G", "R"]], spread)
                yield (f"{near['displacement']:.3g}", "authors", f"{near['networks']:g}", *measured)

        return markdown("δ | convention | seeds | D | G | R", sorted(rows(), key=lambda row: (float(row[0]), row[1])))

    def _exponent(self, experiment: str, name: str, state: str, activation: str) -> pd.Series:
        representation = "whole" if state == "homogeneous" else "average"
        keys = {"experiment": experiment, "sensitivity": name, "state": state, "activation": activation}
        return self._row("scale_detection", **keys, noise="rectified", representation=representation)

    def exponent(self, experiment: str, name: str, state: str = "decayed", activation: str = "relu") -> str:
        """Exponent of D_k or G_k of simple CNNs and its interval."""
        return interval(self._exponent(experiment, name, state, activation), "exponent")

    def exponents_table(self) -> str:
        """Test error, and exponents of D_k and G_k that claims 9 and 10 are about, of simple CNNs with ReLU."""

        def rows() -> Iterable[Iterable[str]]:
            cnns = self.tables["simple_cnns"].query("activation == 'relu'").drop_duplicates("experiment", keep="last")
            for row in cnns.to_dict("records"):
                fits = [self._exponent(row["experiment"], name, row["state"], "relu") for name in ("D", "G")]
                yield (
                    row["experiment"], f"{row['filter_size']:g}", f"{row['stride']:g}", number(row["test_error"], 4),
                    *(cell for fit in fits for cell in (
                        f"{fit['first_layer']:g} to {fit['last_layer']:g}", number(fit["predicted"], 0),
                        number(fit["finite_size"]), interval(fit, "exponent"))),
                )  # fmt: skip

        columns = [f"{name}_k: {what}" for name in "DG" for what in ("layers", "predicted", "at this size", "measured")]
        return markdown(" | ".join(["experiment", "F", "stride", "test error", *columns]), rows())

    def simple_cnns(self, column: str, experiment: str, state: str, activation: str = "relu") -> float:
        """test_error or least_error of the simple CNNs of an experiment, mean over seeds."""
        return float(self._row("simple_cnns", experiment=experiment, state=state, activation=activation)[column])

    def noise_ratio(self, state: str, where: str) -> str:
        """G of ReLU over G of tanh and its interval, at the "output" or the deepest layer that pools ("pooling")."""
        return interval(self._row("noise_ratio", state=state, where=where), "ratio", 1)

    def network_table(self) -> str:
        """Every network that learned: one row per architecture, noise level and size of the training set, means over seeds."""
        outputs = self.outputs.assign(ratio=lambda rows: rows["error"] / (0.2 * np.sqrt(rows["R"])))
        order = {name: place for place, name in enumerate(dict.fromkeys(self.tables["networks"]["architecture"]))}
        keys = [name for name in ("noise", "architecture", "training_images") if name in outputs]
        grouped = outputs.sort_values(keys, key=lambda column: column.map(order) if column.name == "architecture" else column)
        names = {"noise": "σ", "architecture": "network", "training_images": "P"}

        def cells(key: tuple[Any, ...], rows: pd.DataFrame) -> Iterable[str]:
            for name, value in zip(keys, key, strict=True):
                label = ARCHITECTURES[value].label if value in ARCHITECTURES else value
                yield label if name == "architecture" else f"{value:g}"
            yield str(len(rows))
            yield "–".join(number(x, 3) for x in dict.fromkeys((rows["error"].min(), rows["error"].max())))
            for name in ("D", "G", "R", "R_init", "ratio"):
                mean, spread = np.exp(np.log(rows[name]).mean()), np.log(rows[name]).std()
                yield f"{mean:.3g}" + ("" if np.isnan(spread) else f" ({100 * spread:.0f}%)")

        head = " | ".join([*(names[key] for key in keys), "seeds", "ε", "D", "G", "R", "R at initialization", "ε / (0.2 √R)"])
        return markdown(head, (cells(key, rows) for key, rows in grouped.groupby(keys, sort=False)))


def authors_size_slope(name: str, dataset: str, largest: int) -> float:
    """Slope of ln X against ln P over the authors' sizes up to ``largest``."""
    theirs = training_set_sizes()
    theirs = theirs[(theirs["dataset"] == dataset) & (theirs["training_images"] <= largest)]
    return float(linregress(np.log(theirs["training_images"]), np.log(theirs[name])).slope)


def runs() -> dict[str, Any]:
    """What expressions can name: the runs, numpy, ``number`` and what compares runs."""
    found = {folder.name: Run(folder) for folder in sorted(RUNS.iterdir()) if any(folder.glob("*.csv"))}
    functions = (number, same_claims, contradictions, claims_of_seeds, authors_size_slope)
    return {**found, "np": np, **{function.__name__: function for function in functions}}


def same_claims(*several: Run) -> pd.DataFrame:
    """One row per claim, group and what it is about, with the statistic and the verdict in each run, which differ in their seed.

    ``verdict`` is that of all runs, and "undecided" where they differ. ``decided_by`` leaves out which experiment or noise level
    decides, since it may differ.
    """
    keys = ["claim", "group", "decided_by"]
    parts = []
    for run in several:
        table = run.tables["claims"][lambda rows: rows["networks"] > 0]
        free = table["claim"].isin(["3", "7a", "9", "10", "11"])
        table = table.assign(decided_by=table["decided_by"].where(~free, ""))
        parts.append(table.set_index(keys)[["statement", "statistic", "verdict"]].add_suffix(f" {run.name}"))
    joined = pd.concat(parts, axis=1)
    verdicts = joined.filter(like="verdict ")
    agree = verdicts.nunique(axis=1) == 1
    return joined.assign(
        verdict=verdicts.iloc[:, 0].where(agree, "undecided"), verdicts=verdicts.apply(set, axis=1)
    ).reset_index()


def contradictions(*several: Run) -> list[str]:
    """Claims that are supported in one run and not supported in another."""
    table = same_claims(*several)
    return table.loc[table["verdicts"].map({"supported", "not supported"}.issubset), "claim"].tolist()


def claims_of_seeds(*several: Run, group: str = "all") -> str:
    """Claims in several runs: the statistic with its interval in each, and the verdict that they share."""
    table = same_claims(*several)
    both = set(table.loc[table["group"] == group, "claim"])
    table = table[(table["group"] == group) | ((table["group"] == "convolutional") & ~table["claim"].isin(both))]
    place = {claim: number for number, claim in enumerate(dict.fromkeys(several[0].tables["claims"]["claim"]))}
    table = table.sort_values("claim", key=lambda claims: claims.map(place), kind="stable")
    first = several[0].name
    head = " | ".join(["claim", "about", *(f"seed {number}" for number in range(len(several))), "verdict in all"])
    return markdown(head, (
        (row["claim"], "; ".join(filter(None, [str(row[f"statement {first}"]).partition(":")[0], row["decided_by"]])),
         *(number(row[f"statistic {run.name}"]) for run in several), row["verdict"]) for _, row in table.iterrows()))  # fmt: skip


def add(results: Path) -> None:
    """Copy the small tables and the figures of a finished run to docs/results."""
    folder = RUNS / results.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        if (results / f"tables/{name}.csv").exists():
            shutil.copy(results / f"tables/{name}.csv", folder)
    sensitivity = read_table(results / "tables/sensitivity.csv")
    convolutional = sensitivity["kind"].str.contains("Conv") & ~sensitivity.duplicated(["architecture", "kind"])
    sensitivity[(sensitivity["layer"] == "output") | convolutional].to_csv(
        folder / "outputs.csv", index=False, float_format="%.6g"
    )
    if (results / "tables/scale_detection_layers.csv").exists():
        layers = read_table(results / "tables/scale_detection_layers.csv")
        keys = ["experiment", "activation", "state", "filter_size", "stride"]
        cnns = layers[layers["state"] != "init"].groupby(keys, sort=False)[["test_error", "least_error"]].mean().reset_index()
        cnns.to_csv(folder / "simple_cnns.csv", index=False, float_format="%.6g")
        ratios = [
            noise_ratio(layers, state=state, where=where).assign(state=state, where=where)
            for state in ("trained", "decayed")
            for where in ("output", "pooling")
        ]
        pd.concat(ratios).to_csv(folder / "noise_ratio.csv", index=False, float_format="%.6g")
    for pattern in FIGURES:
        for figure in (results / "figures").glob(f"{pattern}.png"):
            shutil.copy(figure, folder)
    made = read_attributes(next((results / "networks").rglob("seed0.h5")))
    times = [float(path.read_text().splitlines()[1].split("\t")[0]) for path in (results / "benchmarks").rglob("*.tsv")]
    facts = {name: made[name] for name in ("git_commit", "torch_version", "device", "precision") if name in made}
    facts |= {"jobs": len(times), "core_minutes": round(sum(times) / 60)}
    pd.DataFrame(facts.items(), columns=["fact", "value"]).to_csv(folder / "run.csv", index=False)


def recompute(text: str, names: dict[str, Any], page: str) -> str:
    """The page with all its numbers recomputed.

    Raises:
        ValueError: an expression fails, a condition does not hold, or a decimal number has no mark.
    """

    def where(position: int) -> str:
        return f"{page}, line {text.count(chr(10), 0, position) + 1}"

    def value(match: re.Match[str]) -> Any:
        try:
            return eval(match[1], {"__builtins__": {"len": len, "min": min, "max": max, "abs": abs}}, names)
        except Exception as error:
            raise ValueError(f"{where(match.start())}: expected an expression about a run, got {match[1]!r}: {error}") from error

    for match in CONDITION.finditer(text):
        if not value(match):
            raise ValueError(f"{where(match.start())}: expected to hold: {match[1]}: change the sentence")
    plain = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", lambda found: " " * len(found[0]),
                   MARK.sub(lambda found: " " * len(found[0]), text), flags=re.DOTALL)  # fmt: skip
    stray = NUMBER.search(plain) if page in PAGES else None
    if stray:
        raise ValueError(f"expected each decimal number of {page} between marks, got {stray[0]} without: see docs/recompute.py")
    for match in MARK.finditer(text):
        begins, ends = f"\n{text}"[match.start()] == "\n", f"{text}\n"[match.end()] == "\n"
        if begins and not ends:  # to Markdown, a line that begins with a comment is HTML
            raise ValueError(f"{where(match.start())}: expected a word before the number, got a line that begins with its mark")
    return MARK.sub(lambda match: f"<!-- = {match[1]} -->{value(match)}<!-- / -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; stop where a number differs")
    parser.add_argument("--add", type=Path, help="results folder of a finished run")
    arguments = parser.parse_args()
    if arguments.add:
        add(arguments.add)
    names = runs()
    for path in sorted(DOCS.glob("*.md")):
        page, before = path.name, path.read_text()
        if not MARK.search(before):
            continue
        try:
            after = recompute(before, names, page)
        except ValueError as error:
            sys.exit(str(error))
        if arguments.check and after != before:
            pairs = zip(before.splitlines(), after.splitlines(), strict=False)
            line, (old, new) = next((number, pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])
            sys.exit(f"{page}, line {line}: expected {new!r}, got {old!r}: run python docs/recompute.py")
        path.write_text(after)


if __name__ == "__main__":
    main()
