"""Tables of the scale-detection tasks: what was measured by layer, and the exponents fitted to it beside those predicted."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from relstab.runs.seeding import derive_seed
from relstab.scale_detection.exponents import fit_exponent, predicted_exponents
from relstab.scale_detection.homogeneous import HOMOGENEOUS, pair_theory, receptive_fields
from relstab.scale_detection.tasks import ScaleTask

__all__ = ["KEYS", "exponent_table", "layer_table", "pooling_layers"]

KEYS = ["experiment", "activation"]
"""Columns that tell ensembles apart."""

_NETWORK = ["seed", "learning_rate"]

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


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


def _pooling_counts(sensitivity: Array, field: Array, theory: Array, head: pd.Series) -> tuple[Counts, Counts]:
    """How many layers pool, from the first that counts on, for D and for G, [...].

    Args:
        sensitivity, field: ln D_k and ln A_k, means over networks, [..., K].
        theory: ln of the closed form of D_k, [K].
        head: what the networks share.
    """
    start, scale = _first_layer(head) - 1, math.log(head["scale"]) + 1e-9
    with np.errstate(invalid="ignore"):  # where the closed form is 0, or there is none, any fall counts
        expected = np.where(np.isfinite(theory[1:]), theory[:-1] - theory[1:], 0.0)
        falls = sensitivity[..., :-1] - sensitivity[..., 1:] > expected / 2
    pools = field[..., start:] <= scale
    pools[..., 1:] &= falls[..., start:]
    pools = np.logical_and.accumulate(pools, axis=-1)
    inside = pools if head["rule"] == "distance" else pools & (field[..., start:] < scale - math.log(2) - 2e-9)
    return inside.sum(-1), pools.sum(-1)


def _first_layer(head: pd.Series) -> int:
    return 1 if head["filter_size"] == head["stride"] else 2


def _logarithms(rows: pd.DataFrame) -> tuple[Array, Array, Array]:
    """ln D_k and ln A_k of each network, [networks, K], and ln of the closed form of D_k, [K]."""
    tables = (rows.pivot(index=_NETWORK, columns="k", values=name) for name in ("D", "receptive_field", "theory_D"))
    with np.errstate(divide="ignore"):  # where the closed form is 0
        sensitivity, field, theory = (np.log(table.to_numpy(float)) for table in tables)
    return sensitivity, field, theory[0]


def pooling_layers(rows: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Layers that pool, for the exponents of D and of G.

    They are the first layers, up to the last that sees no more than the scale and by which ln D_k, a mean over networks, has
    fallen at least half as much as in the closed form of homogeneous filters. With overlapping windows the first layer is left
    out: its filter is one block of F sites, not yet the smooth filter whose exponent is predicted. In Task 2, lit sites do not
    move over the borders of blocks. This leaves out half of the moves that matter to a layer of A_k = xi / 2, and all that matter
    to one of A_k = xi. These layers count for G only.

    Args:
        rows: of one ensemble, one state, one noise and one representation, 1 <= k <= K, from :func:`layer_table`.

    Returns:
        The layers for D and for G, in order.
    """
    head = rows.iloc[0]
    first = _first_layer(head)
    sensitivity, field, theory = _logarithms(rows)
    inside, pools = _pooling_counts(sensitivity.mean(0), field.mean(0), theory, head)
    return list(range(first, first + int(inside))), list(range(first, first + int(pools)))


def exponent_table(layers: pd.DataFrame, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Exponents of D_k and G_k against A_k over the layers that pool, fitted and predicted.

    The layers follow from :func:`pooling_layers` for the last state of an ensemble, channels averaged. All rows of the ensemble
    use the same layers. Their intervals are over networks, and in each resample over the layers that pool in it, at least two:
    where the law bends, the exponent depends on the layers.

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
        head = inner.iloc[0]
        reference, chosen = _chosen_layers(str(keys[0]), inner)
        predicted = predicted_exponents(int(head["filter_size"]), int(head["stride"]))
        for group, part in inner.groupby(["state", "noise", "representation"], sort=False):
            for name, layers_of in chosen.items():
                here = part[part["k"].isin(range(min(layers_of, default=1), int(head["depth"]) + 1))]
                values, field, theory = (
                    here.pivot(index=_NETWORK, columns="k", values=column).to_numpy(float)
                    for column in (name, "receptive_field", f"theory_{name}")
                )
                used = len(layers_of)
                usable = (np.isfinite(values) & (values > 0) & np.isfinite(field))[:, :used].all(1)
                exponent = low = high = finite = math.nan
                networks = int(np.sum(usable))
                if networks and used >= 2:
                    stream = derive_seed("exponent", seed, *map(str, keys), *map(str, group), name)
                    pooling = None if reference is None else _resampled(reference, usable, head, name, used)
                    exponent, low, high = fit_exponent(field[usable], values[usable], confidence, resamples, stream, pooling)
                    theory = theory[:1, :used]
                    if np.isfinite(theory).all() and (theory > 0).all():
                        finite = fit_exponent(_closed_fields(head, layers_of), theory, resamples=1).value
                ends = [min(layers_of), max(layers_of)] if layers_of else [0, 0]
                rows.append(
                    [*keys, head["rule"], int(head["filter_size"]), int(head["stride"]), *group, name, *ends,
                     getattr(predicted, name), finite, exponent, low, high, networks]
                )  # fmt: skip
    columns = [*KEYS, "rule", "filter_size", "stride", "state", "noise", "representation", "sensitivity", "first_layer"]
    return pd.DataFrame(rows, columns=[*columns, "last_layer", "predicted", "finite_size", "exponent", "low", "high", "networks"])


def _resampled(
    reference: tuple[Array, Array, Array], usable: NDArray[np.bool_], head: pd.Series, name: str, used: int
) -> Callable[[Array], Counts]:
    """How many layers pool in each resample of the usable networks, for :func:`fit_exponent`; in the sample ``used``."""
    log_d, log_a, log_theory = reference

    def layers(shares: Array) -> Counts:
        counts = _pooling_counts(shares @ log_d[usable], shares @ log_a[usable], log_theory, head)[name == "G"]
        counts[0] = used  # of all networks, usable or not
        return counts

    return layers


def _chosen_layers(experiment: str, inner: pd.DataFrame) -> tuple[tuple[Array, Array, Array] | None, dict[str, list[int]]]:
    """The logarithms that say which layers pool, where this is measured, and the layers to fit, by sensitivity."""
    if experiment in HOMOGENEOUS:
        layers = sorted(int(k) for k in inner["k"].unique() if k >= HOMOGENEOUS[experiment]["first_layer"])
        return None, {"D": layers, "G": layers}
    last = "decayed" if (inner["state"] == "decayed").any() else "trained"
    average = inner[(inner["state"] == last) & (inner["noise"] == "rectified") & (inner["representation"] == "average")]
    return _logarithms(average), dict(zip(("D", "G"), pooling_layers(average), strict=True))


def _closed_fields(head: pd.Series, chosen: list[int]) -> list[float]:
    fields = receptive_fields(int(head["filter_size"]), int(head["stride"]), int(head["depth"]))
    return [float(fields[k - 1]) for k in chosen]
