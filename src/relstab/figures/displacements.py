"""Beyond the paper: D, G and R of the output against the displacement, by cutoff (Petrini et al., arXiv 2105.02468)."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.authors import efficientnet, geometric_means
from relstab.figures.style import WIDTH, label_of, log_axis, mark, trained_architectures

__all__ = ["draw"]

_STATES: dict[str, Any] = {"trained": "-", "init": "--"}
_LABELS = {"trained": "trained", "init": "initialization"}
_AUTHORS: dict[str, Any] = {"color": "0.6", "linewidth": 3, "alpha": 0.6, "zorder": 0}


def draw(sweep: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """D, G and R of the output against the typical displacement delta, one row per cutoff c, of trained networks (full) and at
    initialization (dashed); dotted: D of the input. Lines are geometric means over seeds, bands Student's interval of the mean
    logarithm. Grey and wide: EfficientNetB0 on CIFAR-10 of Petrini et al., at the same cutoffs.

    Args:
        sweep: the table ``sensitivity_sweep``.
        confidence: of the bands.
    """
    cutoffs = sorted(sweep["cutoff"].unique())
    names = trained_architectures(sweep)
    authors = efficientnet()
    figure, axes = plt.subplots(
        len(cutoffs), 3, figsize=(WIDTH, 0.8 + 1.8 * len(cutoffs)), sharex=True, sharey="col", squeeze=False
    )
    for line, cutoff in zip(axes, cutoffs, strict=True):
        rows = sweep[sweep["cutoff"] == cutoff]
        theirs = authors[authors["cutoff"] == cutoff]
        for ax, name in zip(line, ("D", "G", "R"), strict=True):
            for state, style in _STATES.items():
                curve = theirs[theirs["state"] == state]
                ax.plot(curve["displacement"], curve[name], linestyle=style, **_AUTHORS)
                for architecture in names:
                    own = rows[(rows["architecture"] == architecture) & (rows["state"] == state) & (rows["layer"] == "output")]
                    look = {key: value for key, value in mark(architecture).items() if key != "elinewidth"}
                    _draw_mean(ax, own, name, confidence, **look | {"linestyle": style})
            if name == "D":
                curve = theirs[theirs["representation"] == "input"]
                ax.plot(curve["displacement"], curve["D"], linestyle=":", **_AUTHORS)
                _draw_mean(ax, rows[rows["layer"] == "input"], "D", confidence, color="k", linestyle=":", marker=None)
        line[0].set_ylabel(f"$c = {cutoff}$")
    for column, name in enumerate(("D", "G", "R")):
        log_axis(axes[0, column].yaxis)
        axes[0, column].set_title(f"${name}_f$")
        log_axis(axes[0, column].xaxis)
        axes[-1, column].set_xlabel(r"displacement $\delta$ in pixels")
    handles = [Line2D([], [], color=mark(name)["color"], label=label_of(name)) for name in names]
    handles += [Line2D([], [], color="k", linestyle=style, label=_LABELS[state]) for state, style in _STATES.items()]
    handles += [Line2D([], [], color="k", linestyle=":", label="input"), Line2D([], [], **_AUTHORS, label="authors")]
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return figure


def _draw_mean(ax: Axes, rows: pd.DataFrame, name: str, confidence: float, **look: Any) -> None:
    means = geometric_means(rows[rows[name] > 0], ["displacement"], [name], confidence)
    if means.empty:
        return
    ax.plot(means["displacement"], means[name], markersize=3, **look)
    ax.fill_between(
        means["displacement"], means[f"{name}_low"], means[f"{name}_high"], color=look["color"], alpha=0.2, linewidth=0
    )
