"""Figure 10: test error against D, G and R of the output, at each noise level."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from relstab.figures.style import (
    WIDTH,
    draw_errors,
    legend_of_architectures,
    log_axis,
    mark,
    noise_labels,
    note_empty,
    rho_title,
    trained_architectures,
)
from relstab.tables.networks import output_sensitivities

__all__ = ["draw"]


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame, correlation: pd.DataFrame) -> Figure:
    """Test error against D_f, G_f and R_f of the output at each noise level of the data set, one point per network that
    learned, with the correlation of the logarithms and its bootstrap interval. Bars are standard errors over the
    probes, and of the test error over the test images.

    Args:
        networks, sensitivity, correlation: the tables of these names.
    """
    outputs = output_sensitivities(networks, sensitivity)
    outputs = outputs[outputs["state"] == "trained"]
    noise = sorted(networks["noise"].unique())
    figure, axes = plt.subplots(len(noise), 3, figsize=(WIDTH, 0.7 + 1.6 * len(noise)), sharex="col", sharey="row", squeeze=False)
    for line, level, label in zip(axes, noise, noise_labels(noise), strict=True):
        rows = outputs[outputs["noise"] == level]
        for ax, name in zip(line, ("D", "G", "R"), strict=True):
            if rows.empty:
                note_empty(ax, "no network learned")
                continue
            for architecture in trained_architectures(rows):
                points = rows[rows["architecture"] == architecture]
                draw_errors(ax, points, name, **mark(architecture))
            ax.set(xscale="log", yscale="log")
            ax.set_title(rho_title(correlation, level, name), pad=3, fontsize="small")
        line[0].set_ylabel(rf"test error $\epsilon$, $\sigma = {label}$")
    # Axes are shared, and every panel has added its points by now.
    for line in axes:
        log_axis(line[0].yaxis)
    for ax, name in zip(axes[-1], ("D", "G", "R"), strict=True):
        log_axis(ax.xaxis)
        ax.set_xlabel(rf"${name}_f$")
    handles = legend_of_architectures(trained_architectures(outputs)) if len(outputs) else []
    figure.legend(handles=handles, loc="outside lower center", ncols=6, handletextpad=0.1)
    return figure
