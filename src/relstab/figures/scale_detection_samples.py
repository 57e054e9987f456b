"""Figure 5: samples of the scale-detection tasks, and where a deformation moves their lit sites."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch, Rectangle

from relstab.figures.style import WIDTH, note_empty

__all__ = ["draw"]

_LIT, _MOVED = "k", "#e69f00"
_COLOURS = ListedColormap(["w", _MOVED, _LIT])
_LABELS = (1, -1)
_SCALE: dict[str, Any] = {"color": "k", "linewidth": 1.2, "marker": "|", "markersize": 5, "clip_on": False}


def _pixels(rows: pd.DataFrame, shape: tuple[int, int]) -> Any:
    """0 where nothing is, 1 where a site moves to, 2 where it is lit."""
    values = np.zeros(shape)
    values[rows["moved_row"], rows["moved_column"]] = 1
    values[rows["row"], rows["column"]] = 2
    return values


def _show(ax: Axes, values: Any, **how: Any) -> None:
    ax.imshow(values, cmap=_COLOURS, vmin=0, vmax=2, interpolation="nearest", **how)


def _label(label: int) -> str:
    return "$y = +1$" if label > 0 else "$y = -1$"


def _draw_ring(figure: SubFigure, rows: pd.DataFrame, rule: str) -> None:
    """Rings as strips, one below the other, those of y = +1 first."""
    ax: Axes = figure.subplots()
    size, scale = int(rows["size"].iloc[0]), int(rows["scale"].iloc[0])
    below, ticks = 0.0, {}
    for label in _LABELS:
        top = below
        for _, sample in rows[rows["label"] == label].groupby("sample"):
            middle = below - 0.3
            _show(ax, _pixels(sample, (1, size)), extent=(-0.5, size - 0.5, middle - 0.3, middle + 0.3), aspect="auto")
            ax.add_patch(Rectangle((-0.5, middle - 0.3), size, 0.6, fill=False, edgecolor="0.5", linewidth=0.5, zorder=3))
            # A move by one site is small on a long ring: arrows say where it goes.
            for step, arrow in ((-1, "<"), (1, ">")):
                there = sample[np.sign(sample["moved_column"] - sample["column"]) == step]
                ax.plot(there["moved_column"], [middle + 0.48] * len(there), arrow, color=_MOVED, markersize=3, markeredgewidth=0)
            if rule == "block":
                for border in range(scale, size, scale):
                    ax.plot([border - 0.5] * 2, [middle - 0.45, middle + 0.45], "k--", linewidth=0.7, dashes=(2, 1.5))
            below -= 1.05
        if below < top:
            ticks[(top + below + 0.45) / 2] = _label(label)
            below -= 0.5
    if rule == "distance":
        ax.plot([0, scale], [below + 0.15] * 2, **_SCALE)
        ax.text(scale + 0.02 * size, below + 0.15, rf"$\xi = {scale}$", va="center", ha="left")
        below -= 0.3
    ax.set(xlim=(-1, size), ylim=(below + 0.1, 0.4), xticks=[], yticks=list(ticks), yticklabels=list(ticks.values()))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw_images(figure: SubFigure, rows: pd.DataFrame, rule: str, columns: int) -> None:
    """Images as squares, those of y = +1 above."""
    size, scale = int(rows["size"].iloc[0]), int(rows["scale"].iloc[0])
    axes: Any = figure.subplots(2, columns, squeeze=False)
    for line, label in zip(axes, _LABELS, strict=True):
        samples = list(rows[rows["label"] == label].groupby("sample"))
        for ax in line[len(samples) :]:
            ax.set_axis_off()
        for ax, (_, sample) in zip(line, samples, strict=False):
            _show(ax, _pixels(sample, (size, size)))
            ax.set(xticks=[], yticks=[])
            if rule == "block":
                for border in range(scale, size, scale):
                    ax.axvline(border - 0.5, color="k", linestyle="--", linewidth=0.7)
                    ax.axhline(border - 0.5, color="k", linestyle="--", linewidth=0.7)
        line[0].set_ylabel(_label(label))
    if rule == "distance":
        ax = axes[1, 0]
        ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
        ax.plot([0, scale], [size + 2.5] * 2, **_SCALE)
        ax.text(scale + 1.5, size + 2.5, rf"$\xi = {scale}$", va="center", ha="left")


def draw(samples: pd.DataFrame) -> Figure:
    """Images of the scale-detection tasks, with label y = +1 above and y = -1 below: two lit sites on a ring, drawn as a
    strip, or on an image, and the sites to which a deformation moves them. The bar is the scale xi; dashed lines are
    the borders of the blocks.

    Args:
        samples: from :func:`relstab.scale_detection.samples.sample_table`.
    """
    rings = samples.loc[samples["dimension"] == 1, "task"].unique().tolist()
    images = samples.loc[samples["dimension"] == 2, "task"].unique().tolist()
    if not rings and not images:
        figure, ax = plt.subplots(figsize=(WIDTH, 1.5))
        note_empty(ax, "no scale-detection task")
        return figure
    heights, lines = [], []
    for tasks, height in ((rings, 0.21), (images, 0.0)):
        for start in range(0, len(tasks), 2):
            part = tasks[start : start + 2]
            shown = [samples[samples["task"] == task] for task in part]
            columns = max(int(rows.groupby("label")["sample"].nunique().max()) for rows in shown)
            lines.append((part, columns))
            # Images are squares, as wide as the samples beside each other leave them.
            heights.append(0.6 + 2 * height * columns if height else 0.5 + 2 * min(0.9, WIDTH / 2 / (columns + 0.5)))
    figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.3))
    parts: Any = figure.subfigures(len(lines), 1, height_ratios=heights, squeeze=False)
    for line, (tasks, columns) in zip(parts[:, 0], lines, strict=True):
        # One task alone stands in the middle.
        beside: Any = line.subfigures(1, 2) if len(tasks) == 2 else line.subfigures(1, 3, width_ratios=[1, 2, 1])[1:2]
        for part, task in zip(beside, tasks, strict=True):
            rows = samples[samples["task"] == task]
            part.suptitle(task, fontsize="medium")
            if rows["dimension"].iloc[0] == 1:
                _draw_ring(part, rows, str(rows["rule"].iloc[0]))
            else:
                _draw_images(part, rows, str(rows["rule"].iloc[0]), columns)
    look: dict[str, Any] = {"edgecolor": "0.5", "linewidth": 0.5}
    handles = [Patch(facecolor=_LIT, label="lit site", **look), Patch(facecolor=_MOVED, label="where it moves to", **look)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=1, handleheight=1)
    return figure
