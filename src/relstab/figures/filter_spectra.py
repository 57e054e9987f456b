"""Figure 4: squared projections of the filters on the modes of the grid Laplacian, by layer, at initialization and trained."""

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.style import INITIAL, WIDTH, label_of, log_axis, note_empty, trained_architectures, whole_numbers
from relstab.tables import of_learned

__all__ = ["draw"]


def draw(networks: pd.DataFrame, spectrum: pd.DataFrame) -> Figure:
    """Draw figure 4 at the lowest noise level: a column for each architecture.

    Above, gamma_{k,l} of every layer, grey and dashed at initialization; below, trained relative to initialization. Lines are
    means over seeds in logarithm, bands their range; the deeper the layer, the lighter the line. Networks that did not learn are
    left out.

    Args:
        networks, spectrum: the tables of these names.
    """
    chosen = of_learned(spectrum[spectrum["noise"] == spectrum["noise"].min()], networks)
    names = trained_architectures(chosen) if len(chosen) else []
    figure, axes = plt.subplots(2, max(len(names), 1), figsize=(WIDTH, 3.7), sharex="col", sharey="row", squeeze=False)
    if not names:
        for ax in axes[:, 0]:
            note_empty(ax, "no convolutional network learned")
        return figure
    shades = mpl.colormaps["viridis"].resampled(256)
    for (above, below), name in zip(axes.T, names, strict=True):
        rows = chosen[chosen["architecture"] == name]
        gamma = rows.pivot_table(index=["index", "depth", "seed"], columns=["state", "mode"], values="gamma")
        logarithms: Any = gamma.map(np.log)
        for (_, depth), layer in logarithms.groupby(["index", "depth"]):
            colour = shades(0.9 * depth)
            ratio = layer["trained"] - layer["init"]
            for ax, curves, line, shade in (
                (above, layer["init"], "--", INITIAL),
                (above, layer["trained"], "-", colour),
                (below, ratio, "-", colour),
            ):
                curve = np.exp(curves.mean().dropna())
                ax.plot(curve.index, curve, color=shade, linestyle=line, linewidth=0.9 if line == "--" else 1.2)
                spread = np.exp(curves[curve.index])
                ax.fill_between(curve.index, spread.min(), spread.max(), color=shade, alpha=0.2, linewidth=0)
        below.axhline(1, color="k", linewidth=0.5)
        above.set_title(label_of(name))
        below.set_xlabel("mode $l$")
        whole_numbers(below.xaxis)
    log_axis(axes[0, 0].yaxis)
    log_axis(axes[1, 0].yaxis)
    axes[0, 0].set_ylabel(r"$\gamma_{k,l}$")
    axes[1, 0].set_ylabel(r"$\gamma_{k,l}$, trained / initial")
    axes[0, 0].legend(
        handles=[
            Line2D([], [], color=shades(0.45), label="trained"),
            Line2D([], [], color=INITIAL, linestyle="--", label="initialization"),
        ],
        loc="best",
    )
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1 / 0.9), shades), ax=axes, shrink=0.6, aspect=30, label="depth $k/K$"
    )
    bar.ax.set_ylim(0, 1)
    return figure
