"""G_k of simple CNNs with ReLU and with tanh, trained on the same experiment, and the ratio of one to the other."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.pooling_scaling import TASKS
from relstab.figures.style import WIDTH, draw_layers, log_axis, note_empty
from relstab.tables.noise_ratio import LEARNED, noise_ratio, relu_and_tanh
from relstab.tables.number_text import with_interval

__all__ = ["draw"]

# Grey, line and marker of each activation.
_LOOKS: dict[str, tuple[Any, Any, Any]] = {"relu": ("k", "-", "o"), "tanh": ("0.55", "--", "s")}
_NAMES = {"relu": "ReLU", "tanh": "tanh"}
_COLUMNS = 3


def draw(layers: pd.DataFrame, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Figure:
    """G_k by layer of simple CNNs with ReLU and with tanh that learned the same task, at zero training loss and after weight
    decay; the last point is the output. Bands are the range over seeds. Titles: ratio of G, of geometric means over
    seeds, with its bootstrap interval over networks, at the output and at the deepest layer that sees no more than the
    scale.

    Representations are whole, and noise is Gaussian. Lines are means over seeds. There is a panel after weight decay where both
    activations have it; its ratio is that of the deepest layer, and the ratio of the output is that at zero training loss.

    Args:
        layers: from :func:`relstab.tables.scale_detection.layer_table`.
        confidence, resamples, seed: of the interval.
    """
    options = (confidence, resamples, seed)
    panels = [(ratio, "trained") for _, ratio in noise_ratio(layers, *options).iterrows()]
    panels += [(ratio, "decayed") for _, ratio in noise_ratio(layers, *options, "decayed", "pooling").iterrows()]
    lines = -(-max(len(panels), 1) // _COLUMNS)
    columns = max(min(len(panels), _COLUMNS), 1)
    figure, axes = plt.subplots(lines, columns, figsize=(min(WIDTH, 0.5 + 2.6 * columns), 0.4 + 2.3 * lines), squeeze=False)
    if not panels:
        note_empty(axes[0, 0], "no experiment has both ReLU and tanh")
        return figure
    for ax in axes.ravel()[len(panels) :]:
        ax.set_axis_off()
    for ax, (ratio, state) in zip(axes.ravel(), panels, strict=False):
        rows = relu_and_tanh(layers, state)
        here = rows[(rows["experiment"] == ratio["experiment"]) & (rows["test_error"] <= LEARNED)]
        here = here[(here["G"] > 0) & np.isfinite(here["G"])]
        ax.set_title(_title(ratio, state, _experiment(layers, str(ratio["experiment"]))), fontsize="medium", pad=4)
        if here.empty:
            note_empty(ax, "no network learned")
            continue
        for name, look in _LOOKS.items():
            part = here[here["activation"] == name]
            if len(part):
                draw_layers(ax, part, "G", *look)
            else:
                ax.text(0.03, 0.03, f"no {_NAMES[name]} network learned", transform=ax.transAxes, fontsize="small", color="0.3")
        log_axis(ax.yaxis)
        last = int(here["depth"].iloc[0]) + 1
        step = -(-last // 9)
        ticks = [k for k in range(1, last) if k % step == 0 and last - k >= step]
        ax.set_xticks([*ticks, last], [*map(str, ticks), "out"])
    handles = []
    for name, (colour, line, marker) in _LOOKS.items():
        handles.append(Line2D([], [], color=colour, linestyle=line, marker=marker, markersize=3.5, label=_NAMES[name]))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _experiment(layers: pd.DataFrame, name: str) -> str:
    """An experiment in words; with its name if another experiment differs from it in size alone."""
    first = layers[layers["activation"] == "tanh"].drop_duplicates("experiment").set_index("experiment")
    words = first["rule"].map(TASKS) + ", stride " + first["stride"].astype(int).astype(str)
    return str(words[name]) if (words == words[name]).sum() == 1 else f"{words[name]} ({name})"


def _title(ratio: "pd.Series[float]", state: str, experiment: str) -> str:
    experiment += ", after weight decay" if state == "decayed" else ""
    if np.isnan(ratio["ratio"]):
        return experiment
    which = "f" if state == "trained" else f"{ratio['k']:.0f}"
    return f"{experiment}\n$G_{which}$, ReLU / tanh: {with_interval(ratio['ratio'], ratio['low'], ratio['high'])}"
