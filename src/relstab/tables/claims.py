"""The paper's claims, each decided from the run's own numbers with an interval.

Every claim is a statistic that has a range where the claim holds: above 0, unless its statement says otherwise. Its interval is
that of :class:`relstab.bootstrap.Bootstrap`. The claim is supported when the whole interval is in the range, not supported when
the whole interval is on one side of it, and undecided otherwise. A claim of several parts takes the smallest of its parts in
every resample. A claim about several experiments or noise levels prints the one that decides it, with its own interval.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from relstab.bootstrap import Bootstrap, Interval
from relstab.paper_layers import paper_layers
from relstab.runs.seeding import derive_seed
from relstab.tables.networks import (
    GROUPS,
    KEYS,
    in_group,
    initial_states,
    keys_of,
    of_learned,
    of_sizes,
    output_sensitivities,
)
from relstab.tables.noise_ratio import LEARNED, noise_ratio

__all__ = ["claim_table"]

Array = NDArray[np.float64]

# Claim 12 says "about": the factor within a factor of two, and the slope of log eps against log R near that of a square root.
_FACTOR = 2.0
_SLOPE = (0.35, 0.65)
# How far a fitted exponent may be from the predicted one, for G_k (claim 9) and D_k (claim 10).
_TOLERANCE = {"G": 0.2, "D": 0.3}
# ln(G trained / G at initialization) of the output in the authors' own data.
_AUTHORS = "-1.44 (CIFAR-10), -1.12 (Fashion-MNIST), -3.1 (MNIST)"
_HALVES = {"first half": (0.0, 0.5), "second half": (0.5, 1.0)}
_WORST_FIRST = ("not supported", "undecided", "supported")


@dataclass(frozen=True)
class _Settings:
    confidence: float
    resamples: int
    seed: int


@dataclass(frozen=True)
class _Row:
    """One row of the table; the fields are its columns."""

    claim: str
    statement: str
    statistic: float
    low: float
    high: float
    verdict: str
    group: str
    networks: int
    architectures: int
    decided_by: str


def _verdict(low: float, high: float, above: float = 0.0, below: float = math.inf) -> str:
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if low > above and high < below:
        return "supported"
    if high < above or low > below:
        return "not supported"
    return "undecided"


class _Sample:
    """Networks with their bootstrap: one row per network, with its architecture, and of outputs also its error."""

    def __init__(self, rows: pd.DataFrame, settings: _Settings, *name: str) -> None:
        self.rows, self.confidence = rows, settings.confidence
        stream = derive_seed("claims", *name, settings.seed)
        self.bootstrap = Bootstrap(rows["architecture"].astype(str), settings.resamples, stream)
        if "error" in rows:
            self.log_error = np.log(self.bootstrap.errors(rows["error"], rows["test_images"]))

    def column(self, name: str) -> Array:
        return self.rows[name].to_numpy(float)

    def rho(self, name: str) -> Array:
        return self.bootstrap.correlation(self.log_error, np.log(self.column(name)))

    def mean(self, name: str) -> Array:
        return self.bootstrap.mean(self.column(name))

    def first_claim(self) -> Array:
        return np.asarray(np.minimum(self.rho("R"), self.rho("R") - self.rho("D")))

    def first_two_claims(self) -> Array:
        return np.asarray(np.minimum(self.first_claim(), -self.rho("G")))

    def decide(
        self,
        claim: str,
        group: str,
        statement: str,
        statistic: Array,
        holds: tuple[float, float] = (0.0, math.inf),
        decided_by: str = "",
    ) -> _Row:
        interval = self.bootstrap.interval(statistic, self.confidence)
        counts = len(self.rows), self.rows["architecture"].nunique()
        return _Row(claim, statement, *interval, _verdict(*interval[1:], *holds), group, *counts, decided_by)


def _deciding(rows: Iterable[_Row], holds: tuple[float, float] = (0.0, math.inf)) -> list[_Row]:
    """The row that decides a claim about all of ``rows``: of those with the worst verdict, the one with the least margin."""

    def rank(row: _Row) -> tuple[int, float]:
        margin = min(row.statistic - holds[0], holds[1] - row.statistic)
        return _WORST_FIRST.index(row.verdict), -math.inf if math.isnan(margin) else margin

    return sorted(rows, key=rank)[:1]


def _nothing(claim: str, group: str, statement: str) -> _Row:
    """Row of a claim about which the run has no networks."""
    return _Row(claim, statement, math.nan, math.nan, math.nan, "undecided", group, 0, 0, "")


def _fall(layers: pd.DataFrame) -> "pd.Series[float]":
    """How fast R_k falls in each network: minus the least-squares slope of ln R_k against depth, over k >= 1.

    At k = 0 R is 1 by construction, and says nothing.
    """
    usable = layers[(layers["R"] > 0) & (layers["k"] >= 1)]
    keys = keys_of(usable)
    falls = {
        key: -float(np.polyfit(rows["depth"], np.log(rows["R"]), 1)[0]) for key, rows in usable.groupby(keys) if len(rows) > 1
    }
    return pd.Series(falls, index=pd.MultiIndex.from_tuples(falls, names=keys) if falls else None, dtype=float)


def _by_network(**columns: "pd.Series[float]") -> pd.DataFrame:
    """Table of the networks that have a number in each of the columns, which are indexed by the keys of networks."""
    if any(column.empty for column in columns.values()):
        return pd.DataFrame(columns=[*KEYS, *columns])
    return pd.concat(columns, axis=1).dropna().reset_index()


def _in_both(outputs: pd.DataFrame, initial: str) -> pd.DataFrame:
    """Trained outputs of the networks that also have one in the state ``initial``, with its D, G and R as D_init and so on."""
    keys = keys_of(outputs)
    at_start = outputs.loc[outputs["state"] == initial, [*keys, "D", "G", "R"]]
    return outputs[outputs["state"] == "trained"].merge(at_start, on=keys, suffixes=("", "_init"))


def _outputs(outputs: pd.DataFrame, levels: list[float], group: str, settings: _Settings) -> Iterable[_Row]:
    """Claims 1 to 3, 1', 2', 7b, 7c and 12, of the networks of one group."""
    trained = outputs[outputs["state"] == "trained"]
    lowest, *above = levels
    clean = _Sample(trained[trained["noise"] == lowest], settings, "outputs")
    statement = "rho(eps, R) is positive and larger than rho(eps, D): min of rho(eps, R) and rho(eps, R) - rho(eps, D)"
    yield clean.decide("1", group, statement, clean.first_claim())
    yield clean.decide("2", group, "rho(eps, G) is negative: -rho(eps, G)", -clean.rho("G"))

    # Networks at different noise levels are different ones: each level is resampled by itself.
    statement = "claims 1 and 2 hold for noisy training sets: the smallest of their statistics, at the level that decides"
    noisy = []
    for noise in above:
        sample = _Sample(trained[trained["noise"] == noise], settings, "outputs", f"{noise:.12g}")
        noisy.append(sample.decide("3", group, statement, sample.first_two_claims(), decided_by=f"noise {noise:.12g}"))
    yield from _deciding(noisy) or [_nothing("3", group, statement)]

    for initial in initial_states(outputs):
        both = _Sample(_in_both(outputs[outputs["noise"] == lowest], initial), settings, "initialization", initial)
        drop = both.rho("G_init") - both.rho("G")
        for claim, statement, statistic in (
            ("1'", "claim 1 is not seen at initialization: rho(eps, R) trained - rho(eps, R) at initialization",
             both.rho("R") - both.rho("R_init")),
            ("2'", "claim 2 is not seen at initialization: rho(eps, G) at initialization - rho(eps, G) trained", drop),
            ("7b", "on images, training makes the anti-correlation of eps and G: the statistic of claim 2'", drop),
        ):  # fmt: skip
            yield both.decide(claim, group, statement, statistic, decided_by=initial)
        statement = f"ln(G trained / G at initialization) of the output, mean; the authors' own data: {_AUTHORS}"
        whole = _Sample(of_sizes(both.rows, every=False), settings, "initialization", initial)
        growth = whole.bootstrap.mean(np.log(whole.column("G") / whole.column("G_init")))
        yield replace(whole.decide("7c", group, statement, growth, decided_by=initial), verdict="observation")

    name = "R_median" if "R_median" in clean.rows and (clean.rows["R_median"] > 0).all() else "R"
    log_r = np.log(clean.column(name))
    factor = clean.bootstrap.mean(clean.log_error - np.log(0.2) - log_r / 2)
    slope = clean.bootstrap.slope(log_r, clean.log_error)
    middle, width = sum(_SLOPE) / 2, (_SLOPE[1] - _SLOPE[0]) / 2
    margin = np.minimum(1 - np.abs(factor) / math.log(_FACTOR), 1 - np.abs(slope - middle) / width)
    of = "medians" if name == "R_median" else "means"
    yield clean.decide(
        "12",
        group,
        f"eps is about 0.2 sqrt(R), as found on CIFAR-10 (R of {of}): 12a and 12b together, the smaller of their distances from "
        "the end of the range, 1 in its middle",
        margin,
    )
    statement = f"geometric mean of eps / (0.2 sqrt(R)), within a factor of {_FACTOR:g} of 1 (R of {of})"
    yield clean.decide("12a", group, statement, np.exp(factor), (1 / _FACTOR, _FACTOR))
    statement = f"slope of ln eps against ln R, within {_SLOPE[0]} to {_SLOPE[1]} (R of {of})"
    yield clean.decide("12b", group, statement, slope, _SLOPE)


def _depth(layers: pd.DataFrame, group: str, settings: _Settings) -> Iterable[_Row]:
    """Claim 4, of the networks of one group; ``layers`` are unshuffled."""
    fall = {state: _fall(rows) for state, rows in layers.groupby("state")}
    nothing = pd.Series(dtype=float)
    for initial in initial_states(layers):
        falls = _by_network(trained=fall.get("trained", nothing), init=fall.get(initial, nothing))
        sample = _Sample(falls, settings, "fall", initial)
        yield sample.decide(
            "4",
            group,
            "R_k falls with depth after training, not at initialization (there, less than half as much): with F the mean fall of "
            "ln R_k over the depth from k = 1, min of F trained and F trained - 2 F at initialization",
            np.minimum(sample.mean("trained"), sample.mean("trained") - 2 * sample.mean("init")),
            decided_by=initial,
        )


def _shuffles(layers: pd.DataFrame, settings: _Settings) -> Iterable[_Row]:
    """Claim 5 by batch-norm statistics: of all convolutional networks, of each architecture, and by half of the depth."""
    keys = keys_of(layers)
    trained = layers[(layers["state"] == "trained") & (layers["k"] >= 1) & (layers["R"] > 0)].assign(
        log_r=lambda rows: np.log(rows["R"])
    )
    plain = trained[trained["shuffle"] == "none"]
    shuffled = trained[trained["shuffle"] != "none"].groupby([*keys, "statistics", "k", "depth"], as_index=False)["log_r"].mean()
    shuffled["R"] = np.exp(shuffled["log_r"])
    for statistics in ("stale", *sorted(set(shuffled["statistics"]) - {"stale"})):
        rows = shuffled[shuffled["statistics"] == statistics]
        pairs = rows.merge(plain[[*keys, "k", "log_r"]], on=[*keys, "k"], suffixes=("", "_plain"))

        pairs["rise"] = pairs["log_r"] - pairs["log_r_plain"]
        whole = _by_network(rise=pairs.groupby(keys)["rise"].mean(), fall=_fall(pairs))
        for group in ("convolutional", *sorted(whole["architecture"].unique())):
            chosen = whole if group == "convolutional" else whole[whole["architecture"] == group]
            sample = _Sample(chosen, settings, "shuffle", statistics)
            statement = (
                "shuffling channels raises R_k, without making it flat: min of the mean of ln(R_k shuffled / R_k) over layers, "
                "and the mean fall of ln R_k over the depth of shuffled networks"
            )
            statistic = np.minimum(sample.mean("rise"), sample.mean("fall"))
            yield sample.decide("5", group, statement, statistic, decided_by=f"{statistics} statistics")
        for half, (low, high) in _HALVES.items():
            part = pairs[(pairs["depth"] > low) & (pairs["depth"] <= high)]
            for claim, statement, values in (
                ("5a", "channel pooling acts in this half: mean of ln(R_k shuffled / R_k) over its layers",
                 part.groupby(keys)["rise"].mean()),
                ("5b", "spatial pooling acts in this half: mean fall of ln R_k over the depth of shuffled networks",
                 _fall(part)),
            ):  # fmt: skip
                sample = _Sample(_by_network(value=values), settings, "shuffle", statistics)
                label = f"{half}, {statistics} statistics"
                yield sample.decide(claim, "convolutional", statement, sample.mean("value"), decided_by=label)


def _filters(spectra: pd.DataFrame, settings: _Settings) -> Iterable[_Row]:
    """Claim 6."""
    keys = keys_of(spectra)
    layer_keys = [*keys, "state", "layer"]
    share = spectra[spectra["mode"] == 1].set_index(layer_keys)["gamma"] / spectra.groupby(layer_keys)["gamma"].sum()
    by_state = share.map(np.log).unstack("state") if len(share) else pd.DataFrame(columns=["init", "trained"])
    growth = (by_state["trained"] - by_state["init"]).groupby(keys).mean() if len(share) else pd.Series(dtype=float)
    sample = _Sample(_by_network(growth=growth), settings, "filters")
    statement = "training moves filters toward low frequencies: mean over layers of ln of the growth of gamma_1 / sum of gamma"
    yield sample.decide("6", "convolutional", statement, sample.mean("growth"))


def _last_states(layers: pd.DataFrame) -> pd.DataFrame:
    """Experiment and last state of the ensembles with ReLU that have learned their task in it."""
    rows = layers[(layers["activation"] == "relu") & layers["state"].isin(["trained", "decayed"])]
    errors = rows.groupby(["experiment", "state"])["test_error"].mean().reset_index()
    last = errors.sort_values("state", key=lambda states: states == "decayed").groupby("experiment").tail(1)
    return last.loc[last["test_error"] <= LEARNED, ["experiment", "state"]]


def _fitted(layers: pd.DataFrame, exponents: pd.DataFrame) -> pd.DataFrame:
    """Exponents that claims are about: channels averaged, noise rectified as in the theory, last state of each experiment."""
    chosen = exponents[
        (exponents["activation"] == "relu") & (exponents["noise"] == "rectified") & (exponents["representation"] == "average")
    ].merge(_last_states(layers), on=["experiment", "state"])
    return chosen[chosen["exponent"].notna()]


def _pooling(layers: pd.DataFrame, exponents: pd.DataFrame, settings: _Settings) -> Iterable[_Row]:
    """Claims 7a and 9 to 11, about simple CNNs on the scale-detection tasks; each row names the experiment that decides."""
    group = "convolutional"
    fitted = _fitted(layers, exponents)
    statement = (
        "where pooling is learned, training raises G_k: mean of ln(G_k trained / G_k at initialization) over the layers that pool"
    )
    raised = []
    for _, ends in fitted[fitted["sensitivity"] == "G"].iterrows():
        rows = layers[
            (layers["experiment"] == ends["experiment"])
            & (layers["activation"] == "relu")
            & (layers["noise"] == "gaussian")
            & (layers["representation"] == "whole")
            & layers["k"].between(ends["first_layer"], ends["last_layer"])
            & (layers["G"] > 0)
        ]
        gain = np.log(rows.pivot(index=["seed", "learning_rate", "k"], columns="state", values="G"))
        growth = (gain[ends["state"]] - gain["init"]).groupby(["seed", "learning_rate"]).mean().dropna()
        sample = _Sample(growth.to_frame("growth").assign(architecture="simple CNN"), settings, "raised", ends["experiment"])
        raised.append(sample.decide("7a", group, statement, sample.mean("growth"), decided_by=ends["experiment"]))
    yield from _deciding(raised) or [_nothing("7a", group, statement)]

    for claim, name, centre, statement in (
        ("9", "G", 1.0, "G_k ~ A_k over the layers that pool: exponent of the experiment that decides, within 0.2 of 1"),
        ("10", "D", 0.0, "D_k ~ A_k^-alpha over the layers that pool: exponent + alpha of the one that decides, within 0.3"),
    ):  # fmt: skip
        holds = centre - _TOLERANCE[name], centre + _TOLERANCE[name]
        rows = []
        for _, row in fitted[fitted["sensitivity"] == name].iterrows():
            shift = row["predicted"] if name == "D" else 0.0
            interval = Interval(*(float(row[column] - shift) for column in ("exponent", "low", "high")))
            verdict = _verdict(*interval[1:], *holds)
            rows.append(_Row(claim, statement, *interval, verdict, group, int(row["networks"]), 1, row["experiment"]))
        yield from _deciding(rows, holds) or [_nothing(claim, group, statement)]

    statement = (
        "tanh lowers G_k against ReLU at the deepest layer that pools, at zero training loss: mean ln(G with ReLU / G with tanh) "
        "of the experiment that decides"
    )
    compared = []
    for _, row in noise_ratio(layers, settings.confidence, settings.resamples, settings.seed, where="pooling").iterrows():
        interval = Interval(*(float(np.log(row[column])) for column in ("ratio", "low", "high")))
        verdict = _verdict(*interval[1:])
        label = f"{row['experiment']}, k = {row['k']}"
        if row["networks"]:
            compared.append(_Row("11", statement, *interval, verdict, group, int(row["networks"]), 1, label))
    yield from _deciding(compared) or [_nothing("11", group, statement)]


def claim_table(
    networks: pd.DataFrame,
    sensitivity: pd.DataFrame,
    spectrum: pd.DataFrame,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    layers: pd.DataFrame | None = None,
    exponents: pd.DataFrame | None = None,
    pair_networks: pd.DataFrame | None = None,
    pair_sensitivity: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Decide the claims: 1 to 7 of the paper on real data, 8 to 11 on the scale-detection tasks, and 12 of Petrini et al.

    Claims 1, 2, 4 to 7 and 12 are about the lowest noise level of the run, claim 3 about all the others. Where the size of the
    training set is an axis, claims about error (1 to 3, 1', 2', 7b, 12) are about networks of all sizes, which spread the errors,
    and claims about layers and filters (4 to 6, 7c) about those of the largest, as figures are. Networks that did not learn are
    left out of all of them.

    Args:
        networks, sensitivity, spectrum: the tables of these names.
        layers, exponents: ``scale_detection_layers`` and ``scale_detection``, of a run that has simple CNNs.
        pair_networks, pair_sensitivity: networks and sensitivities of the deep networks on images with two lit pixels, if any.
        confidence, resamples: of the bootstrap intervals.
        seed: of the resampling.

    Returns:
        claim (text: 1, 1', 7a), statement (with what the statistic is), statistic, low, high, verdict (supported, not supported,
        undecided, or observation); group, "all" networks, "convolutional" ones alone, or one architecture; networks and
        architectures, how many the row is about; decided_by, the noise level, state, experiment or half that the row is about.
    """
    settings = _Settings(confidence, resamples, seed)
    levels = sorted(networks["noise"].unique())
    outputs = output_sensitivities(networks, sensitivity)
    lowest = of_sizes(of_learned(sensitivity[sensitivity["noise"] == levels[0]], networks), every=False)
    in_depth = paper_layers(lowest, [*keys_of(lowest), "state", "shuffle", "statistics"])
    plain = in_depth[in_depth["shuffle"] == "none"]
    rows: list[_Row] = []
    for group in GROUPS:
        rows += _outputs(in_group(outputs, group, sensitivity), levels, group, settings)
        rows += _depth(in_group(plain, group, sensitivity), group, settings)
    rows += _shuffles(in_group(in_depth, "convolutional", sensitivity), settings)
    spectrum = of_learned(spectrum[spectrum["noise"] == levels[0]], networks)
    rows += _filters(of_sizes(spectrum, every=False), settings)
    if pair_networks is not None and pair_sensitivity is not None:
        pairs = output_sensitivities(pair_networks, pair_sensitivity)
        for group in GROUPS:
            trained = in_group(pairs[pairs["state"] == "trained"], group, pair_sensitivity)
            sample = _Sample(trained, settings, "pairs")
            statement = (
                "on the scale-detection task, rho(eps, R) is positive and larger than rho(eps, D), and rho(eps, G) is negative: "
                "the smallest of the statistics of claims 1 and 2"
            )
            rows.append(sample.decide("8", group, statement, sample.first_two_claims()))
    if layers is not None and exponents is not None:
        rows += _pooling(layers, exponents, settings)
    table = pd.DataFrame([vars(row) for row in rows])

    def place(claims: "pd.Series[str]") -> "pd.Series[int]":
        return claims.str.extract(r"(\d+)", expand=False).astype(int)

    # By number, 1 before 1'; all networks before the convolutional ones.
    order = table.assign(number=place(table["claim"]), part=table["claim"].str.replace(r"\d+", "", regex=True))
    return table.loc[order.sort_values(["number", "part"], kind="stable").index].reset_index(drop=True)
