"""Figure 2: spatial pooling, of a pixel that moves by one, and channel pooling, of an edge that is rotated."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from relstab.figures.pooling_illustration import LAYERS, Maps, channel_maps, relative_change, spatial_maps
from relstab.figures.style import WIDTH

__all__ = ["draw"]

_CHANGE = r"D = |f(\tau x) - f(x)|^2 \,/\, (|f(x)|^2 + |f(\tau x)|^2)"


def _show(ax: Axes, maps: Maps, item: str, version: str) -> None:
    values = maps[item, version]
    largest = float(abs(values).max())
    if version == "filter":
        ax.imshow(values, cmap="RdGy", vmin=-largest, vmax=largest)
        for (row, column), value in np.ndenumerate(values / largest):
            # Signs are written: in grey, weights above and below 0 look alike.
            sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else "0"
            light = abs(value) > 0.6
            ax.text(column, row, sign, ha="center", va="center", fontsize="small", color="w" if light else "k")
    else:
        ax.imshow(values, cmap="gray_r", vmin=0, vmax=largest)
    ax.set(xticks=[], yticks=[])


def _draw_spatial(figure: SubFigure, maps: Maps) -> None:
    filters = [item for item, version in maps if version == "filter"]
    axes: Any = figure.subplots(2 * len(filters), len(LAYERS) + 1)
    for place, name in enumerate(filters):
        above, below = axes[2 * place], axes[2 * place + 1]
        _show(above[0], maps, name, "filter")
        above[0].set_ylabel(name, labelpad=2, fontsize="small")
        below[0].set_axis_off()
        for top, bottom, k in zip(above[1:], below[1:], LAYERS, strict=True):
            item = f"{name}, k = {k}"
            _show(top, maps, item, "x")
            _show(bottom, maps, item, "moved")
            top.set_title(f"$k = {k}$", pad=3)
            bottom.set_xlabel(f"$D_k = {relative_change(maps[item, 'x'], maps[item, 'moved']):.2f}$", labelpad=2)
        above[1].set_ylabel("$f_k(x)$", labelpad=2)
        below[1].set_ylabel(r"$f_k(\tau x)$", labelpad=2)
    figure.suptitle("spatial pooling: a move by one pixel", fontsize="medium")


def _draw_channel(figure: SubFigure, maps: Maps) -> None:
    items = [item for item, version in maps if version == "x"]
    axes: Any = figure.subplots(3, len(items), height_ratios=[0.7, 1, 1])
    for (above, middle, below), name in zip(axes.T, items, strict=True):
        if (name, "filter") in maps:
            _show(above, maps, name, "filter")
            above.set_title(name, pad=3)
        else:
            above.set_axis_off()
            middle.set_title("sum" if name.startswith("sum") else name, pad=3)
        _show(middle, maps, name, "x")
        _show(below, maps, name, "moved")
        versions = maps[name, "x"], maps[name, "moved"]
        if name == "image":
            below.set_xlabel(f"\n$D = {relative_change(*versions):.2f}$", labelpad=2)
        else:
            before, after = (float(values.mean()) for values in versions)
            middle.set_xlabel(f"mean {before:.3f}", labelpad=2)
            below.set_xlabel(f"mean {after:.3f}\n$D = {relative_change(before, after):.2f}$", labelpad=2)
    axes[1, 0].set_ylabel("$x$")
    axes[2, 0].set_ylabel(r"$\tau x$")
    figure.suptitle("channel pooling: a rotation", fontsize="medium")


def draw() -> Figure:
    """Two kinds of pooling, in computed numbers. Left: layers of a lit pixel, and of the same pixel moved by one, under a
    homogeneous filter and under one of high frequency; D_k falls with the layer under the first only. Right: an edge
    and its rotation, seen by two channels after ReLU, whose filters are rotations of each other; the average of each
    channel over sites changes, the average of their sum does not.

    The numbers are computed from the values that are drawn: relative changes D of the layers on the left, of the averages over
    sites on the right.
    """
    figure = plt.figure(figsize=(WIDTH, 4.0))
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.2, 1], wspace=0.04)
    _draw_spatial(parts[0], spatial_maps())
    _draw_channel(parts[1], channel_maps())
    figure.supxlabel(f"${_CHANGE}$", fontsize="medium")
    return figure
