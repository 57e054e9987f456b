"""Tables of the scale-detection tasks: what was measured by layer, and the exponents fitted to it beside those predicted."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from relstab.runs.seeding import derive_seed
from relstab.scale_detection.exponents import fit_exponent, predicted_exponents
from relstab.scale_detection.homogeneous import HOMOGENEOUS, pair_theory, receptive_fields
from relstab.scale_detection.tasks import ScaleTask

__all__ = ["KEYS", "exponent_table", "layer_table", "pooling_layers"]

KEYS = ["experiment", "activation"]
"""Columns that tell ensembles apart."""


def layer_table(measured: Iterable[pd.DataFrame], homogeneous: pd.DataFrame) -> pd.DataFrame:
    """Rows of all simple CNNs, and of the homogeneous networks (state "homogeneous"), with the closed forms beside them.

    ``theory_D`` and ``theory_G`` are those of homogeneous filters at this size: for trained networks with rectified noise, see
    :func:`relstab.scale_detection.homogeneous.pair_theory`; G with Gaussian noise, which the first layer rectifies only in part,
    has none.

    Args:
        measured: rows of each ensemble, from :func:`relstab.scale_detection.measurement.measure_ensemble`.
        homogeneous: rows of the networks of homogeneous filters.
    """
    parts = []
    for rows in measured:
        first = rows.iloc[0]
        task = ScaleTask(first["rule"], int(first["size"]), int(first["scale"]), float(first["gap"]))
        theory = pair_theory(task, int(first["filter_size"]), int(first["stride"]), int(first["depth"]))
        by_layer = {
            "theory_D": dict(enumerate(theory.D, start=1)),
            "theory_G": dict(enumerate(theory.G, start=1)),
        }
        rows = rows.assign(**{name: rows["k"].map(values) for name, values in by_layer.items()})
        rows.loc[rows["noise"] != "rectified", "theory_G"] = math.nan
        parts.append(rows)
    check = homogeneous.assign(
        activation="relu", state="homogeneous", seed=0, learning_rate=0.0, noise="rectified", representation="whole"
    )
    table = pd.concat([*parts, check], ignore_index=True)
    table["layer"] = table["layer"].fillna("")
    first_columns = [
        *KEYS,
        "rule",
        "size",
        "scale",
        "gap",
        "pairs",
        "filter_size",
        "stride",
        "depth",
        "channels",
        "seed",
        "epochs",
    ]
    first_columns += ["reached_zero", "state", "test_error", "least_error", "noise", "representation", "k"]
    present = [name for name in first_columns if name in table]
    return table[[*present, *table.columns.drop(present)]]


def pooling_layers(rows: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Layers that pool, for the exponents of D and of G.

    They are the first layers, up to the last that sees no more than the scale and by which ln D_k has fallen at least half as
    much as in the closed form of homogeneous filters. With overlapping windows the first layer is left out: its filter is one
    block of F sites, not yet the smooth filter whose exponent is predicted. In Task 2, lit sites do not move over the borders of
    blocks. This leaves out half of the moves that matter to a layer of A_k = xi / 2, and all that matter to one of A_k = xi.
    These layers count for G only.

    Args:
        rows: of one ensemble, one state, one noise and one representation, 1 <= k <= K, from :func:`layer_table`.

    Returns:
        The layers for D and for G, in order.
    """
    columns = ["D", "receptive_field", "theory_D"]
    with np.errstate(divide="ignore"):  # where the closed form is 0
        logarithms = np.log(rows[columns].to_numpy(float))
    mean = {int(k): logarithms[(rows["k"] == k).to_numpy()].mean(0) for k in sorted(rows["k"].unique())}
    first = rows.iloc[0]
    scale = math.log(first["scale"]) + 1e-9
    chosen: list[int] = []
    for k in range(1 if first["filter_size"] == first["stride"] else 2, max(mean) + 1):
        sensitivity, field, theory = mean[k]
        if field > scale:
            break
        if chosen:
            # Where the closed form is 0, or there is none, any fall counts.
            expected = mean[k - 1][2] - theory if np.isfinite(theory) else 0.0
            if not mean[k - 1][0] - sensitivity > expected / 2:
                break
        chosen.append(k)
    inside = [k for k in chosen if first["rule"] == "distance" or mean[k][1] < scale - math.log(2) - 2e-9]
    return inside, chosen


def exponent_table(layers: pd.DataFrame, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Exponents of D_k and G_k against A_k over the layers that pool, fitted and predicted.

    The layers follow from :func:`pooling_layers` for the last state of an ensemble, channels averaged. All rows of the ensemble
    use the same layers.

    Args:
        layers: from :func:`layer_table`.
        confidence, resamples, seed: of the intervals over networks.

    Returns:
        For each ensemble, state, noise, representation and sensitivity: first_layer, last_layer, predicted (as A_k grows without
        end), finite_size (that of the closed form over the same layers, NaN where there is none), exponent, low, high, networks.
    """
    rows = []
    for keys, ensemble in layers.groupby(KEYS, sort=False):
        inner = ensemble[(ensemble["k"] >= 1) & (ensemble["k"] <= ensemble["depth"])]
        chosen = _chosen_layers(str(keys[0]), inner)
        head = inner.iloc[0]
        predicted = predicted_exponents(int(head["filter_size"]), int(head["stride"]))
        for group, part in inner.groupby(["state", "noise", "representation"], sort=False):
            for name in ("D", "G"):
                here = part[part["k"].isin(chosen[name])]
                values, field, theory = (
                    here.pivot(index=["seed", "learning_rate"], columns="k", values=column).to_numpy(float)
                    if len(here)
                    else np.empty((0, 0))
                    for column in (name, "receptive_field", f"theory_{name}")
                )
                usable = np.isfinite(values).all(1) & (values > 0).all(1) & np.isfinite(field).all(1) if len(values) else []
                exponent = low = high = finite = math.nan
                networks = int(np.sum(usable))
                if networks and values.shape[1] >= 2:
                    stream = derive_seed("exponent", seed, *map(str, keys), *map(str, group), name)
                    exponent, low, high = fit_exponent(field[usable], values[usable], confidence, resamples, stream)
                    if np.isfinite(theory[0]).all() and (theory[0] > 0).all():
                        closed = _closed_fields(head, chosen[name])
                        finite = fit_exponent(closed, theory[:1]).value
                ends = [min(chosen[name]), max(chosen[name])] if chosen[name] else [0, 0]
                rows.append(
                    [*keys, head["rule"], int(head["filter_size"]), int(head["stride"]), *group, name, *ends,
                     getattr(predicted, name), finite, exponent, low, high, networks]
                )  # fmt: skip
    columns = [*KEYS, "rule", "filter_size", "stride", "state", "noise", "representation", "sensitivity", "first_layer"]
    return pd.DataFrame(rows, columns=[*columns, "last_layer", "predicted", "finite_size", "exponent", "low", "high", "networks"])


def _chosen_layers(experiment: str, inner: pd.DataFrame) -> dict[str, list[int]]:
    """Layers to fit, by sensitivity."""
    if experiment in HOMOGENEOUS:
        layers = [int(k) for k in inner["k"] if k >= HOMOGENEOUS[experiment]["first_layer"]]
        return {"D": layers, "G": layers}
    last = "decayed" if (inner["state"] == "decayed").any() else "trained"
    average = inner[(inner["state"] == last) & (inner["noise"] == "rectified") & (inner["representation"] == "average")]
    return dict(zip(("D", "G"), pooling_layers(average), strict=True))


def _closed_fields(head: pd.Series, chosen: list[int]) -> list[float]:
    fields = receptive_fields(int(head["filter_size"]), int(head["stride"]), int(head["depth"]))
    return [float(fields[k - 1]) for k in chosen]
