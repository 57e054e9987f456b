"""Figure 6: test error of the deep networks on the scale-detection task on images against D, G and R of the output."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from relstab.figures.style import (
    WIDTH,
    draw_errors,
    empty_figure,
    legend_of_architectures,
    log_axis,
    mark,
    rho_title,
    trained_architectures,
)
from relstab.tables.networks import output_sensitivities

__all__ = ["draw"]


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame, correlation: pd.DataFrame) -> Figure:
    """Test error of the deep networks on images with two lit pixels against D_f, G_f and R_f of the output, one point per
    network that learned, with the correlation of the logarithms and its bootstrap interval. Bars are standard errors
    over the probes, and of the test error over the test images.

    Args:
        networks, sensitivity, correlation: the tables of these names for the deep networks on the images with two lit pixels.
    """
    level = networks["noise"].min()
    outputs = output_sensitivities(networks, sensitivity)
    outputs = outputs[(outputs["state"] == "trained") & (outputs["noise"] == level)]
    if outputs.empty:
        return empty_figure("no network learned")
    names = trained_architectures(outputs)
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.5), sharey=True)
    for ax, name in zip(axes, ("D", "G", "R"), strict=True):
        ax.set_xlabel(rf"${name}_f$")
        for architecture in names:
            points = outputs[outputs["architecture"] == architecture]
            draw_errors(ax, points, name, **mark(architecture))
        log_axis(ax.xaxis)
        ax.set_title(rho_title(correlation, level, name), pad=3, fontsize="small")
    axes[0].set_ylabel(r"test error $\epsilon$")
    # The axis is shared, and every panel has added its points by now.
    log_axis(axes[0].yaxis)
    figure.legend(handles=legend_of_architectures(names), loc="outside lower center", ncols=6, handletextpad=0.1)
    return figure
