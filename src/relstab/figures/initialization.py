"""Beyond the paper: D, G and R of the output of each network, trained beside at initialization."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from relstab.figures.style import (
    WIDTH,
    empty_figure,
    legend_of_architectures,
    log_axis,
    mark,
    trained_architectures,
)
from relstab.tables.networks import keys_of, output_sensitivities

__all__ = ["draw"]


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> Figure:
    """D_f, G_f and R_f of the output of trained networks against the same before training, one point per network that learned,
    at the lowest noise level. On the dashed line training changed nothing; below it, training lowered the sensitivity. Bars are
    standard errors over the probes.

    Args:
        networks, sensitivity: the tables of these names.
    """
    outputs = output_sensitivities(networks, sensitivity)
    outputs = outputs[outputs["noise"] == networks["noise"].min()]
    if outputs.empty:
        return empty_figure("no network learned")
    before, after = (outputs[outputs["state"] == state] for state in ("init", "trained"))
    pairs = before.merge(after, on=keys_of(networks), suffixes=("_before", "_after"))
    names = trained_architectures(outputs)
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.8))
    for ax, name in zip(axes, ("D", "G", "R"), strict=True):
        x, y = f"{name}_before", f"{name}_after"
        for architecture in names:
            rows = pairs[pairs["architecture"] == architecture]
            look = mark(architecture)
            ax.errorbar(rows[x], rows[y], xerr=rows[f"{name}_sem_before"], yerr=rows[f"{name}_sem_after"], **look)
        ends = [pairs[[x, y]].min().min(), pairs[[x, y]].max().max()]
        ax.plot(ends, ends, "k--", linewidth=0.8, zorder=1)
        ax.set(xlabel=f"${name}_f$ at initialization", ylabel=f"${name}_f$ trained")
        log_axis(ax.xaxis)
        log_axis(ax.yaxis)
    figure.legend(handles=legend_of_architectures(names), loc="outside lower center", ncols=6, handletextpad=0.1)
    return figure
