"""Figure 8: test error on the scale-detection task on images against R of the output, trained and at initialization."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.style import WIDTH, draw_errors, empty_figure, legend_of_architectures, log_axis, mark, trained_architectures
from relstab.tables.networks import output_sensitivities

__all__ = ["draw"]

# eps = 0.2 sqrt(R), as the paper found on CIFAR-10.
_FACTOR = 0.2


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> Figure:
    """Test error of the deep networks on images with two lit pixels against R_f of the output, filled when trained, open at
    initialization (beside the error after training), one point per network that learned. Dashed line: 0.2 sqrt(R_f).
    Bars are standard errors over the probes, and of the test error over the test images.

    Args:
        networks, sensitivity: the tables of these names for the deep networks on the images with two lit pixels.
    """
    outputs = output_sensitivities(networks, sensitivity)
    outputs = outputs[outputs["noise"] == networks["noise"].min()]
    if outputs.empty:
        return empty_figure("no network learned")
    figure, ax = plt.subplots(figsize=(WIDTH * 0.6, 3.0))
    ax.set(xlabel=r"relative sensitivity $R_f$", ylabel=r"test error $\epsilon$")
    names = trained_architectures(outputs)
    for state in ("init", "trained"):
        for name in names:
            rows = outputs[(outputs["state"] == state) & (outputs["architecture"] == name)]
            look: dict[str, Any] = mark(name)
            if state == "init":
                # The lightest colours could not be seen as outlines: shapes tell architectures apart here.
                look |= {"markerfacecolor": "none", "color": "0.4", "markeredgecolor": "0.4", "markeredgewidth": 0.7}
            draw_errors(ax, rows, "R", **look)
    ends = np.array([outputs["R"].min(), outputs["R"].max()])
    ax.plot(ends, _FACTOR * np.sqrt(ends), "k--", linewidth=0.8, zorder=1)
    log_axis(ax.xaxis)
    log_axis(ax.yaxis)
    plain: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgecolor": "k", "markeredgewidth": 0.7}
    handles = [
        Line2D([], [], color="k", label="trained", **plain),
        Line2D([], [], markerfacecolor="none", label="initialization", **plain),
        Line2D([], [], color="k", linestyle="--", linewidth=0.8, label=r"$\epsilon = 0.2 \sqrt{R_f}$"),
        *legend_of_architectures(names),
    ]
    figure.legend(handles=handles, loc="outside right center", handletextpad=0.5)
    return figure
