"""Figure 7: D_k and G_k of simple CNNs against the effective receptive field A_k, beside the theory of spatial pooling."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.style import WIDTH, log_axis, note_empty
from relstab.scale_detection.homogeneous import receptive_fields
from relstab.tables.number_text import number_text, with_interval

__all__ = ["TASKS", "draw"]

# Marker and colour; the colours differ in lightness too.
_LOOKS = {"D": ("o", "k"), "G": ("s", "#d1762c")}
TASKS = {"distance": "Task 1", "block": "Task 2"}
"""Names of the tasks by their rule."""
_HOMOGENEOUS = ("homogeneous_stride1", "homogeneous_strided")
_FILTERED = {"noise": "rectified", "activation": "relu"}
_OPEN = "0.5"
_PALE = 0.35


def _points(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """By layer: A, mean over networks; value, geometric mean; factor, e to the standard deviation of the logarithm."""
    usable = rows[(rows[name] > 0) & np.isfinite(rows[name]) & (rows["receptive_field"] > 0)]
    logarithm = np.log(usable[name]).groupby(usable["k"])
    return pd.DataFrame(
        {
            "A": usable.groupby("k")["receptive_field"].mean(),
            "value": np.exp(logarithm.mean()),
            "factor": np.exp(logarithm.std().fillna(0)),
        }
    )


def _draw_points(ax: Axes, points: pd.DataFrame, name: str, is_open: bool, alpha: float) -> None:
    marker, colour = _LOOKS[name]
    fill: dict[str, Any] = {"color": colour, "markeredgewidth": 0}
    if is_open:
        fill = {"color": _OPEN, "markerfacecolor": "none", "markeredgewidth": 0.8}
    ax.errorbar(
        points["A"],
        points["value"],
        yerr=None if is_open else [points["value"] * (1 - 1 / points["factor"]), points["value"] * (points["factor"] - 1)],
        linestyle="none",
        marker=marker,
        alpha=alpha,
        elinewidth=0.8,
        zorder=2 if is_open else 3,
        **fill,
    )


def _draw_theory(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    """Closed form against the receptive fields of homogeneous filters, for which it holds."""
    first = rows.iloc[0]
    fields = receptive_fields(int(first["filter_size"]), int(first["stride"]), int(first["depth"]))
    theory = rows.groupby("k")[f"theory_{name}"].first()
    theory = theory[(theory > 0) & np.isfinite(theory)]
    ax.plot([fields[int(k) - 1] for k in theory.index], theory, color=_LOOKS[name][1], linewidth=0.7, zorder=1)


def _draw_guide(ax: Axes, points: pd.DataFrame, name: str, row: "pd.Series[Any]") -> None:
    """Predicted power law over the fitted layers, through the first of them."""
    fitted = points[(points.index >= row["first_layer"]) & (points.index <= row["last_layer"])]
    if len(fitted) < 2 or not np.isfinite(row["predicted"]):
        return
    first = fitted.iloc[0]
    ends = np.array([first["A"], fitted["A"].max()])
    line = first["value"] * (ends / first["A"]) ** row["predicted"]
    ax.plot(ends, line, color=_LOOKS[name][1], linestyle="--", linewidth=1.2, zorder=4)


def _fitted(name: str, row: "pd.Series[Any] | None") -> str:
    """Fitted exponent, its interval, and the predicted exponent."""
    if row is None:
        return f"${name}_k$: no exponent fitted"
    measured = with_interval(row["exponent"], row["low"], row["high"])
    predicted = number_text(row["predicted"], ".3g")
    size = f"; at this size {number_text(row['finite_size'])}" if np.isfinite(row["finite_size"]) else ""
    return f"${name}_k$: {measured} (predicted {predicted}{size})"


def _row(exponents: pd.DataFrame, name: str) -> "pd.Series[Any] | None":
    """Row of the fitted exponent; None if none was fitted."""
    rows = exponents[(exponents["sensitivity"] == name) & exponents["exponent"].notna()]
    return None if rows.empty else rows.iloc[0]


def _note_error(ax: Axes, rows: pd.DataFrame) -> None:
    """Say in the panel that its networks did not learn."""
    error, least = (float(rows.groupby("seed")[name].first().mean()) for name in ("test_error", "least_error"))
    least = 0.0 if math.isnan(least) else least
    if not (error > least + 0.02 or error > 0.1):
        return
    why = "cannot be learned" if least > 0.1 else "not learned" if error > 0.1 else "learned in part"
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** (0.24 if least else 0.14))
    bound = f"\n(over all pairs no such network is below {least:.2f})" if least else ""
    ax.text(0.03, 0.97, f"{why}: test error {error:.2f}{bound}", transform=ax.transAxes, va="top", fontsize="small")


def _draw_panel(ax: Axes, rows: pd.DataFrame, exponents: pd.DataFrame, title: str, states: list[str]) -> None:
    """One experiment: the last of ``states`` filled, the others open, closed forms, guides, and the exponents in the title."""
    fits = {name: _row(exponents[exponents["state"] == states[-1]], name) for name in _LOOKS}
    ax.set_title("\n".join([title, *(_fitted(name, fits[name]) for name in _LOOKS)]), fontsize="small", pad=4)
    if all(_points(rows, name).empty for name in _LOOKS):
        note_empty(ax, "nothing was measured")
        return
    for name in _LOOKS:
        for state in states:
            points = _points(rows[rows["state"] == state], name)
            fit, is_open = fits[name], state != states[-1]
            ends = (0, 0) if fit is None else (fit["first_layer"], fit["last_layer"])
            inside = np.asarray((points.index >= ends[0]) & (points.index <= ends[1]))
            for chosen, alpha in ((inside, 1.0), (~inside, _PALE)):
                if chosen.any():
                    _draw_points(ax, points[chosen], name, is_open, alpha)
            if fit is not None and not is_open:
                _draw_guide(ax, points, name, fit)
        _draw_theory(ax, rows, name)
    ax.set(xscale="log", yscale="log", xlabel="effective receptive field $A_k$", ylabel="$D_k$, $G_k$")
    _note_error(ax, rows[rows["state"] == states[-1]])
    low, high = ax.get_xlim()
    if high < 3 * low:  # few layers: room for more than one number on the axis
        ax.set_xlim(low / 1.3, high * 1.3)
    log_axis(ax.xaxis)
    log_axis(ax.yaxis)


def draw(layers: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """D_k and G_k of simple CNNs, averaged over channels, against the effective receptive field A_k: geometric means over
    seeds; bars are the standard deviation of the logarithm over seeds; filled after weight decay, open before it.
    Dashed lines: predicted power laws; thin lines: closed forms of homogeneous filters at this size; pale points:
    layers that are not fitted. Titles: fitted exponents with bootstrap intervals over networks, and predicted ones.
    Below: networks of homogeneous filters, which check the closed forms.

    Networks have ReLU, and noise is rectified. An experiment without weight decay has filled points as trained. The power laws go
    through the first fitted layer. Where several experiments belong into one panel, it shows the first in the table; those with
    1 < s < F are in no panel.

    Args:
        layers: from :func:`relstab.tables.scale_detection.layer_table`.
        exponents: from :func:`relstab.tables.scale_detection.exponent_table`.
    """
    inner = layers[(layers["k"] >= 1) & (layers["k"] <= layers["depth"])]
    figure, axes = plt.subplots(3, 2, figsize=(WIDTH, 7.4))
    for line, rule in zip(axes, TASKS, strict=False):
        for ax, strided in zip(line, (False, True), strict=True):
            rows = _experiment(inner, rule, strided)
            if rows.empty:
                ax.set_title(f"{TASKS[rule]}, stride {'$s = F$' if strided else '1'}", fontsize="small", pad=4)
                note_empty(ax, "no such experiment")
                continue
            first = rows.iloc[0]
            states = [state for state in ("trained", "decayed") if (rows["state"] == state).any()]
            title = (
                f"{TASKS[rule]}, stride {first['stride']:g}: $F = {first['filter_size']:g}$, "
                rf"$L = {first['size']:g}$, $\xi = {first['scale']:g}$"
                f"{'' if 'decayed' in states else '; as trained'}"
            )
            _draw_panel(ax, rows, _fits(exponents, str(first["experiment"]), "average"), title, states)
    for ax, name in zip(axes[2], _HOMOGENEOUS, strict=True):
        rows = inner[(inner["experiment"] == name) & (inner["state"] == "homogeneous")]
        if rows.empty:
            ax.set_title(f"homogeneous filters, stride {'1' if name == _HOMOGENEOUS[0] else '$s = F$'}", fontsize="small", pad=4)
            note_empty(ax, "no such networks")
            continue
        first = rows.iloc[0]
        title = f"homogeneous filters, stride {first['stride']:g}: $F = {first['filter_size']:g}$, $L = {first['size']:g}$"
        _draw_panel(ax, rows, _fits(exponents, name, "whole"), title, ["homogeneous"])
    figure.legend(handles=_handles(), loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _experiment(inner: pd.DataFrame, rule: str, strided: bool) -> pd.DataFrame:
    """Rows of the first experiment of a panel, of its trained states."""
    rows = inner[(inner["rule"] == rule) & (inner["representation"] == "average") & inner["state"].isin(["trained", "decayed"])]
    for column, value in _FILTERED.items():
        rows = rows[rows[column] == value]
    rows = rows[(rows["stride"] == (rows["filter_size"] if strided else 1)) & (rows["filter_size"] > 1)]
    return rows[rows["experiment"] == rows["experiment"].iloc[0]] if len(rows) else rows


def _fits(exponents: pd.DataFrame, experiment: str, representation: str) -> pd.DataFrame:
    rows = exponents[(exponents["experiment"] == experiment) & (exponents["representation"] == representation)]
    for column, value in _FILTERED.items():
        rows = rows[rows[column] == value]
    return rows


def _handles() -> list[Line2D]:
    (circle, black), (square, colour) = _LOOKS["D"], _LOOKS["G"]
    plain: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0}
    before: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 0.8}
    return [
        Line2D([], [], marker=circle, color=black, label="$D_k$", **plain),
        Line2D([], [], marker=square, color=colour, label="$G_k$", **plain),
        Line2D([], [], marker=circle, color=_OPEN, label="$D_k$ before weight decay", **before),
        Line2D([], [], marker=square, color=_OPEN, label="$G_k$ before weight decay", **before),
        Line2D([], [], marker=circle, color=black, alpha=_PALE, label="not fitted", **plain),
        Line2D([], [], color=black, linestyle="--", label="predicted power law"),
        Line2D([], [], color=black, linewidth=0.7, label="homogeneous filters, closed form"),
    ]
