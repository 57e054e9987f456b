"""The paper's claims, each decided from the run's own numbers with an interval over networks.

Every claim is a statistic that is positive where the claim holds (numbers 9 and 12: near 1; number 10: near 0). Its interval is
a percentile bootstrap over networks: the claim is supported when the whole interval is on its side, not supported when the
whole interval is on the other, and undecided otherwise. A claim of several parts takes the smallest of its parts within every
bootstrap sample.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from relstab.correlation import log_correlation, percentile_interval
from relstab.paper_layers import paper_layers
from relstab.seeding import derive_seed
from relstab.tables.networks import keys_of, of_learned, output_sensitivities
from relstab.tables.noise_ratio import LEARNED, noise_ratio

__all__ = ["claim_table"]

Statistic = Callable[[NDArray[np.int64]], float]

# Claim 12 says "about": within a factor of two.
_ABOUT = 2.0
# How far a fitted exponent may be from the predicted one, for G_k (claim 9) and D_k (claim 10).
_TOLERANCE = {"G": 0.2, "D": 0.3}


@dataclass(frozen=True)
class _Settings:
    confidence: float
    resamples: int
    seed: int


def _verdict(low: float, high: float, above: float = 0.0, below: float = math.inf) -> str:
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if low > above and high < below:
        return "supported"
    if high < above or low > below:
        return "not supported"
    return "undecided"


def _bootstrap(name: str, statistic: Statistic, count: int, settings: _Settings) -> tuple[float, float, float]:
    """Statistic of all ``count`` networks, and its percentile interval over networks drawn with replacement."""
    if count < 4:
        return (statistic(np.arange(count)) if count > 1 else math.nan), math.nan, math.nan
    rng = np.random.default_rng(derive_seed("claims", name, settings.seed))
    drawn = np.array([statistic(rng.integers(count, size=count)) for _ in range(settings.resamples)])
    return statistic(np.arange(count)), *percentile_interval(drawn, settings.confidence)


def _mean(values: NDArray[Any]) -> Statistic:
    return lambda chosen: float(values[chosen].mean())


def _smallest(*parts: Statistic) -> Statistic:
    return lambda chosen: float(np.min([part(chosen) for part in parts]))


def _rho(outputs: pd.DataFrame, name: str) -> Statistic:
    error, sensitivity = outputs["error"].to_numpy(), outputs[name].to_numpy()
    return lambda chosen: log_correlation(error[chosen], sensitivity[chosen])


def _difference(first: Statistic, second: Statistic) -> Statistic:
    return lambda chosen: first(chosen) - second(chosen)


def _negative(statistic: Statistic) -> Statistic:
    return lambda chosen: -statistic(chosen)


def _fall(layers: pd.DataFrame) -> "pd.Series[float]":
    """How fast R_k falls in each network: minus the least-squares slope of ln R_k against depth, over k >= 0."""

    def slope(rows: pd.DataFrame) -> float:
        return -float(np.polyfit(rows["depth"], np.log(rows["R"]), 1)[0])

    usable = layers[layers["R"] > 0]
    return pd.Series({key: slope(rows) for key, rows in usable.groupby(keys_of(usable))}, dtype=float)


def _convolutional(layers: pd.DataFrame, spectrum: pd.DataFrame) -> pd.DataFrame:
    return layers[layers["architecture"].isin(spectrum["architecture"].unique())]


def _last_states(layers: pd.DataFrame) -> pd.DataFrame:
    """Experiment and last state of the ensembles with ReLU that have learned their task in it."""
    rows = layers[(layers["activation"] == "relu") & layers["state"].isin(["trained", "decayed"])]
    errors = rows.groupby(["experiment", "state"])["test_error"].mean().reset_index()
    last = errors.sort_values("state", key=lambda states: states == "decayed").groupby("experiment").tail(1)
    return last.loc[last["test_error"] <= LEARNED, ["experiment", "state"]]


def _farthest(layers: pd.DataFrame, exponents: pd.DataFrame, name: str) -> tuple[float, float, float, str]:
    """Exponent of the experiment that is farthest from the prediction, with its interval, and the verdict over all of them.

    Of D the difference from the prediction, of G the exponent itself; channels averaged, noise rectified as in the theory, and
    the last state of each experiment.
    """
    chosen = exponents[
        (exponents["activation"] == "relu")
        & (exponents["sensitivity"] == name)
        & (exponents["noise"] == "rectified")
        & (exponents["representation"] == "average")
    ].merge(_last_states(layers), on=["experiment", "state"])
    chosen = chosen[chosen["exponent"].notna()]
    if chosen.empty:
        return math.nan, math.nan, math.nan, "undecided"
    centre = 1.0 if name == "G" else 0.0
    shift = 0.0 if name == "G" else chosen["predicted"]
    values = pd.DataFrame({column: chosen[column] - shift for column in ("exponent", "low", "high")})
    tolerance = _TOLERANCE[name]
    verdicts = {
        _verdict(low, high, centre - tolerance, centre + tolerance)
        for low, high in zip(values["low"], values["high"], strict=True)
    }
    verdict = next(word for word in ("not supported", "undecided", "supported") if word in verdicts)
    value, low, high = values.to_numpy(float)[int(np.argmax(np.abs(values["exponent"].to_numpy(float) - centre)))]
    return float(value), float(low), float(high), verdict


def _relu_over_tanh(layers: pd.DataFrame, settings: _Settings) -> tuple[float, float, float, str]:
    """Least over experiments of the mean ln(G with ReLU / G with tanh) of the output, with its interval over networks."""
    table = noise_ratio(layers, settings.confidence, settings.resamples, settings.seed).dropna(subset="ratio")
    if table.empty:
        return math.nan, math.nan, math.nan, "undecided"
    value, low, high = (float(np.min(np.log(table[column].to_numpy(float)))) for column in ("ratio", "low", "high"))
    return value, low, high, _verdict(low, high)


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

    Claims 1, 2, 4 to 7 and 12 are about the lowest noise level of the run, claim 3 about all the others. Networks that did not
    learn are left out of all of them. Claims 9 and 10 are about every experiment whose networks learned: the claim stands or
    falls with the one that is farthest from it.

    Args:
        networks, sensitivity, spectrum: the tables of these names.
        layers, exponents: ``scale_detection_layers`` and ``scale_detection``, of a run that has simple CNNs.
        pair_networks, pair_sensitivity: networks and sensitivities of the deep networks on images with two lit pixels, if any.
        confidence, resamples: of the bootstrap intervals.
        seed: of the resampling.

    Returns:
        claim, statement (with what the statistic is), statistic, low, high, verdict.
    """
    settings = _Settings(confidence, resamples, seed)
    keys = keys_of(networks)
    lowest = networks["noise"].min()
    outputs = output_sensitivities(networks, sensitivity)
    trained = outputs[outputs["state"] == "trained"]
    clean = trained[trained["noise"] == lowest].reset_index(drop=True)
    in_depth = paper_layers(of_learned(sensitivity[sensitivity["noise"] == lowest], networks), [*keys, "state", "shuffle"])
    convolutional = _convolutional(in_depth, spectrum)
    plain = convolutional[convolutional["shuffle"] == "none"]
    shuffled = convolutional[convolutional["shuffle"] != "none"]
    rows: list[tuple[int, str, float, float, float, str]] = []

    def decide(claim: int, statement: str, statistic: Statistic, count: int) -> None:
        value, low, high = _bootstrap(str(claim), statistic, count, settings)
        rows.append((claim, statement, value, low, high, _verdict(low, high)))

    def first_claim(level: pd.DataFrame) -> Statistic:
        return _smallest(_rho(level, "R"), _difference(_rho(level, "R"), _rho(level, "D")))

    decide(
        1,
        "rho(eps, R) is positive and larger than rho(eps, D): min of rho(eps, R) and rho(eps, R) - rho(eps, D)",
        first_claim(clean),
        len(clean),
    )
    decide(2, "rho(eps, G) is negative: -rho(eps, G)", _negative(_rho(clean, "G")), len(clean))

    # Networks at different noise levels are different ones: each level is resampled by itself.
    above = sorted(noise for noise in networks["noise"].unique() if noise > lowest)
    levels = [trained[trained["noise"] == noise].reset_index(drop=True) for noise in above]
    bounds = [
        _bootstrap(f"3 at {noise:g}", _smallest(first_claim(level), _negative(_rho(level, "G"))), len(level), settings)
        for noise, level in zip(above, levels, strict=True)
    ]
    statement = "claims 1 and 2 hold for noisy training sets: the least of their statistics over noise levels"
    if bounds:
        value, low, high = (float(np.min(column)) for column in zip(*bounds, strict=True))
        rows.append((3, statement, value, low, high, _verdict(low, high)))
    else:
        rows.append((3, statement, math.nan, math.nan, math.nan, "undecided"))

    fall = {state: _fall(plain[plain["state"] == state]) for state in ("init", "trained")}
    both = fall["trained"].index.intersection(fall["init"].index)
    trained_fall = fall["trained"][both].to_numpy()
    decide(
        4,
        "R_k falls with depth after training, not at initialization (there, less than half as much): with F the mean fall of "
        "ln R_k over the depth, min of F trained and F trained - 2 F at initialization",
        _smallest(_mean(trained_fall), _mean(trained_fall - 2 * fall["init"][both].to_numpy())),
        len(both),
    )

    average = shuffled[shuffled["state"] == "trained"].assign(R=lambda table: np.log(table["R"]))
    average = average.groupby([*keys, "k", "depth"], as_index=False)["R"].mean().assign(R=lambda table: np.exp(table["R"]))
    pairs = average.merge(plain[plain["state"] == "trained"], on=[*keys, "k"], suffixes=("_shuffled", ""))
    pairs = pairs[pairs["k"] > 0]
    rise = np.log(pairs["R_shuffled"] / pairs["R"]).groupby([pairs[key] for key in keys]).mean()
    still = _fall(average).reindex(rise.index)
    decide(
        5,
        "shuffling channels raises R_k, without making it flat: min of the mean of ln(R_k shuffled / R_k) over layers, and the "
        "mean fall of ln R_k over the depth of shuffled networks",
        _smallest(_mean(rise.to_numpy()), _mean(still.to_numpy())),
        len(rise),
    )

    spectra = of_learned(spectrum[spectrum["noise"] == lowest], networks)
    layer_keys = [*keys, "state", "layer"]
    share = spectra[spectra["mode"] == 1].set_index(layer_keys)["gamma"] / spectra.groupby(layer_keys)["gamma"].sum()
    by_state = share.map(np.log).unstack("state")
    growth = (by_state["trained"] - by_state["init"]).groupby(keys).mean() if len(share) else pd.Series(dtype=float)
    decide(
        6,
        "training moves filters toward low frequencies: mean over layers of ln of the growth of gamma_1 / sum of gamma",
        _mean(growth.to_numpy()),
        len(growth),
    )

    gains = outputs[outputs["noise"] == lowest].pivot_table(index=keys, columns="state", values="G").dropna()
    raised = np.log(gains["trained"] / gains["init"]).to_numpy() if len(gains) else np.array([])
    decide(7, "training raises G of the output: mean of ln(G trained / G at initialization)", _mean(raised), len(raised))

    if pair_networks is not None and pair_sensitivity is not None:
        pairs_out = output_sensitivities(pair_networks, pair_sensitivity)
        deep = pairs_out[pairs_out["state"] == "trained"].reset_index(drop=True)
        decide(
            8,
            "on the scale-detection task, rho(eps, R) is positive and larger than rho(eps, D), and rho(eps, G) is negative: the "
            "least of the statistics of claims 1 and 2",
            _smallest(first_claim(deep), _negative(_rho(deep, "G"))),
            len(deep),
        )
    if layers is not None and exponents is not None:
        for claim, name, what in (
            (9, "G", "G_k ~ A_k over the layers that pool: exponent of the experiment that is farthest from 1, within 0.2"),
            (
                10,
                "D",
                "D_k ~ A_k^-alpha over the layers that pool: exponent + alpha of the experiment farthest from 0, within 0.3",
            ),
        ):
            rows.append((claim, what, *_farthest(layers, exponents, name)))
        statement = (
            "tanh lowers G of the output against ReLU, at zero training loss: least of the experiments' mean "
            "ln(G with ReLU / G with tanh)"
        )
        rows.append((11, statement, *_relu_over_tanh(layers, settings)))

    factor = np.log(clean["error"] / (0.2 * np.sqrt(clean["R"]))).to_numpy()
    value, low, high = np.exp(_bootstrap("12", _mean(factor), len(factor), settings))
    rows.append(
        (
            12,
            "eps is about 0.2 sqrt(R), as found on CIFAR-10: geometric mean of eps / (0.2 sqrt(R)), within a factor of 2 of 1",
            float(value),
            float(low),
            float(high),
            _verdict(low, high, 1 / _ABOUT, _ABOUT),
        )
    )
    return pd.DataFrame(rows, columns=["claim", "statement", "statistic", "low", "high", "verdict"])
