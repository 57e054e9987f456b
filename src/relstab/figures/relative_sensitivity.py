"""Figure 1: a diffeomorphism and noise of its norm; error against R_f; their correlation at each noise level."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from relstab.figures.style import (
    WIDTH,
    draw_errors,
    legend_of_architectures,
    log_axis,
    mark,
    noise_labels,
    note_empty,
    show_image,
    trained_architectures,
)
from relstab.files.network import noise_level
from relstab.tables.correlation import log_correlation
from relstab.tables.networks import output_sensitivities

__all__ = ["SENSITIVITY_MARKS", "draw"]

Image = NDArray[np.float32]

SENSITIVITY_MARKS = {"D": ("s", "0.45", "--"), "G": ("^", "0.7", ":"), "R": ("o", "0.0", "-")}
"""Marker, grey and line of D, G and R, as functions of the noise level."""


def _draw_versions(axes: list[Axes], sample: dict[str, Image]) -> None:
    clean = sample["images"]
    limits = float(clean.min()), float(clean.max())
    titles = {"images": r"$x$", "deformed": r"$\tau(x)$", "noisy": r"$x + \eta$"}
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        show_image(ax, sample[name], limits)
        ax.set_title(title, pad=3)


def _draw_error(ax: Axes, outputs: pd.DataFrame) -> None:
    if outputs.empty:
        note_empty(ax, "no network learned")
        return
    names = trained_architectures(outputs)
    for name in names:
        rows = outputs[outputs["architecture"] == name]
        draw_errors(ax, rows, "R", **mark(name))
    log_axis(ax.xaxis)
    log_axis(ax.yaxis)
    if len(outputs) >= 3:
        ax.set_title(rf"$\rho(\log\epsilon, \log R_f) = {log_correlation(outputs['error'], outputs['R']):.2f}$", pad=3)
    ax.set(xlabel=r"relative sensitivity $R_f$", ylabel=r"test error $\epsilon$")
    figure = ax.get_figure()
    assert figure is not None
    figure.legend(handles=legend_of_architectures(names), loc="outside lower center", ncols=3, handletextpad=0.1, columnspacing=1)


def _draw_correlation(ax: Axes, correlation: pd.DataFrame, noise: list[float]) -> None:
    place = {level: position for position, level in enumerate(noise)}
    for shift, (name, (shape, grey, line)) in enumerate(SENSITIVITY_MARKS.items()):
        rows = correlation[correlation["sensitivity"] == name].sort_values("noise")
        at = rows["noise"].map(place) + 0.08 * (shift - 1)
        # A percentile interval can lie to one side of the correlation of all networks. Then there is no bar on the other side.
        interval = np.clip([rows["rho"] - rows["low"], rows["high"] - rows["rho"]], 0, None)
        ax.errorbar(
            at,
            rows["rho"],
            yerr=interval,
            marker=shape,
            color=grey,
            linestyle=line,
            elinewidth=0.8,
            capsize=2,
            label=rf"$X = {name}_f$",
        )
    ax.axhline(0, color="k", linewidth=0.5)
    ax.set(
        xlabel=r"noise $\sigma$ of the data set",
        ylabel=r"$\rho(\log\epsilon, \log X)$",
        ylim=(-1.08, 1.08),
        xlim=(-0.5, len(noise) - 0.5),
        xticks=range(len(noise)),
        xticklabels=noise_labels(noise),
    )
    figure = ax.get_figure()
    assert figure is not None
    figure.legend(loc="outside lower center", ncols=3, handlelength=1.4, handletextpad=0.4, columnspacing=1)


def draw(
    networks: pd.DataFrame,
    sensitivity: pd.DataFrame,
    correlation: pd.DataFrame,
    probe: dict[str, Image],
    noisy: dict[float, Image],
) -> Figure:
    """Test error and relative sensitivity. Left: an image x, its deformed version tau(x), and x + eta with noise of the same
    norm. Centre: test error against R_f of the output of all networks that learned, at the lowest noise level; bars are
    standard errors over the probes, and of the test error over the test images. Right: correlation of the logarithms of test
    error and of D_f, G_f and R_f against the noise level sigma of the data set, with bootstrap intervals; above, one image
    per noise level.

    Args:
        networks, sensitivity, correlation: the tables of these names.
        probe: one probe: "images", "deformed" and "noisy".
        noisy: one test image at each noise level.
    """
    noisy = {noise_level(level): image for level, image in noisy.items()}
    noise = sorted(noisy)
    figure = plt.figure(figsize=(WIDTH, 2.6))
    parts: Any = figure.subfigures(1, 3, width_ratios=[0.42, 1, 1 if len(noise) > 1 else 0.65])
    left, centre, right = parts
    _draw_versions(list(left.subplots(3, 1)), probe)
    outputs = output_sensitivities(networks, sensitivity)
    outputs = outputs[(outputs["state"] == "trained") & (outputs["noise"] == noise[0])]
    _draw_error(centre.subplots(), outputs)
    grid = right.add_gridspec(2, len(noise), height_ratios=[1, 3.2])
    for column, level in enumerate(noise):
        ax = right.add_subplot(grid[0, column])
        show_image(ax, noisy[level])
    _draw_correlation(right.add_subplot(grid[1, :]), correlation.query("state == 'trained' and group == 'all'"), noise)
    return figure
