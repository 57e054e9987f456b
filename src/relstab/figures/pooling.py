"""Figure 2: spatial pooling, of a pixel that moves by one, and channel pooling, of an edge that is rotated."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from relstab.figures.pooling_illustration import pooling_illustration, pooling_sensitivities
from relstab.figures.style import WIDTH, note_empty

__all__ = ["draw"]

_CHANGE = r"D = |f(\tau x) - f(x)|^2 \,/\, (|f(x)|^2 + |f(\tau x)|^2)"


def _show(ax: Axes, illustration: pd.DataFrame, item: str, version: str) -> None:
    rows = illustration[(illustration["item"] == item) & (illustration["version"] == version)]
    if rows.empty:
        note_empty(ax, "")
        return
    values = rows.pivot(index="row", columns="column", values="value").to_numpy(float)
    largest = float(abs(values).max()) or 1.0
    if version == "filter":
        ax.imshow(values, cmap="RdGy", vmin=-largest, vmax=largest)
        for (row, column), value in zip(pd.MultiIndex.from_product([range(3), range(3)]), values.ravel() / largest, strict=True):
            # Signs are written: in grey, weights above and below 0 look alike.
            sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else "0"
            light = abs(value) > 0.6
            ax.text(column, row, sign, ha="center", va="center", fontsize="small", color="w" if light else "k")
    else:
        ax.imshow(values, cmap="gray_r", vmin=0, vmax=largest)
    ax.set(xticks=[], yticks=[])


def _draw_spatial(figure: SubFigure, illustration: pd.DataFrame, change: "pd.Series[float]") -> None:
    layers: dict[str, list[str]] = {}
    for item in change.index:
        layers.setdefault(item.rpartition(", ")[0], []).append(item)
    columns = max(map(len, layers.values()))
    axes: Any = figure.subplots(2 * len(layers), columns + 1, squeeze=False)
    for pair, (name, items) in enumerate(layers.items()):
        above, below = axes[2 * pair], axes[2 * pair + 1]
        _show(above[0], illustration, name, "filter")
        above[0].set_ylabel(name, labelpad=2, fontsize="small")
        below[0].set_axis_off()
        for top, bottom, item in zip(above[1:], below[1:], items, strict=False):
            _show(top, illustration, item, "x")
            _show(bottom, illustration, item, "moved")
            top.set_title(f"${item.rpartition(', ')[2]}$", pad=3)
            bottom.set_xlabel(f"$D_k = {change[item]:.2f}$", labelpad=2)
        above[1].set_ylabel("$f_k(x)$", labelpad=2)
        below[1].set_ylabel(r"$f_k(\tau x)$", labelpad=2)
    figure.suptitle("spatial pooling: a move by one pixel", fontsize="medium")


def _draw_channel(figure: SubFigure, illustration: pd.DataFrame, numbers: pd.DataFrame) -> None:
    axes: Any = figure.subplots(3, len(numbers), squeeze=False, height_ratios=[0.7, 1, 1])
    for (above, middle, below), (item, row) in zip(axes.T, numbers.iterrows(), strict=True):
        name = str(item)
        if name.startswith("channel"):
            _show(above, illustration, name, "filter")
            above.set_title(name, pad=3)
        else:
            above.set_axis_off()
            middle.set_title("sum" if name.startswith("sum") else name, pad=3)
        _show(middle, illustration, name, "x")
        _show(below, illustration, name, "moved")
        if name == "image":
            below.set_xlabel(f"\n$D = {row['D']:.2f}$", labelpad=2)
        else:
            middle.set_xlabel(f"mean {row['mean_x']:.3f}", labelpad=2)
            below.set_xlabel(f"mean {row['mean_moved']:.3f}\n$D = {row['D']:.2f}$", labelpad=2)
    axes[1, 0].set_ylabel("$x$")
    axes[2, 0].set_ylabel(r"$\tau x$")
    figure.suptitle("channel pooling: a rotation", fontsize="medium")


def draw(illustration: pd.DataFrame | None = None) -> Figure:
    """Two kinds of pooling, in computed numbers. Left: layers of a lit pixel, and of the same pixel moved by one, under a
    homogeneous filter and under one of high frequency; D_k falls with the layer under the first only. Right: an edge
    and its rotation, seen by two channels after ReLU, whose filters are rotations of each other; the average of each
    channel over sites changes, the average of their sum does not.

    The numbers are computed from the values that are drawn: relative changes D of the layers on the left, of the averages over
    sites on the right.

    Args:
        illustration: from :func:`relstab.figures.pooling_illustration.pooling_illustration`; computed where left out.
    """
    illustration = pooling_illustration() if illustration is None else illustration
    numbers = pooling_sensitivities(illustration)
    figure = plt.figure(figsize=(WIDTH, 4.0))
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.2, 1], wspace=0.04)
    for part, panel in zip(parts, ("spatial", "channel"), strict=True):
        rows = numbers[numbers["panel"] == panel].set_index("item")
        shown = illustration[illustration["panel"] == panel]
        if rows.empty:
            note_empty(part.subplots(), f"no {panel} pooling")
        elif panel == "spatial":
            _draw_spatial(part, shown, rows["D"])
        else:
            _draw_channel(part, shown, rows)
    figure.supxlabel(f"${_CHANGE}$", fontsize="medium")
    return figure
