"""Figures 4, 12, 13, 14: squared projections of filters on the modes of the grid Laplacian, at initialization and trained."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.architectures import ARCHITECTURES
from relstab.figures.style import (
    COLUMNS,
    INITIAL,
    WIDTH,
    label_of,
    legend_above,
    log_axis,
    note_empty,
    spread_out,
    trained_architectures,
    whole_numbers,
    wrapped,
)
from relstab.tables.networks import of_learned

__all__ = ["draw", "draw_all", "draw_pretrained"]

# Names of pretrained networks are longer than those of the run.
_PRETRAINED_COLUMNS = 4
# Modes of a 5 x 5 filter. Beside more of them, those of a 3 x 3 filter would be a sliver on a linear axis.
_LINEAR_MODES = 25


def draw(networks: pd.DataFrame, spectrum: pd.DataFrame) -> Figure:
    """Filters by frequency. Above: mean squared projection gamma of each layer's filters on the modes of the grid Laplacian,
    in order of frequency; mode 1 is the homogeneous filter. Below: the same relative to initialization. Deeper layers
    are lighter. Bands are the range over seeds. Of more than six architectures the figure shows six, evenly spread over
    the list; figures 12 and 13 show all.

    Lines are means over seeds in logarithm. Networks that did not learn are left out.

    Args:
        networks, spectrum: the tables of these names.
    """
    chosen = _at_lowest_noise(networks, spectrum)
    names = spread_out(trained_architectures(chosen))
    return _draw(chosen, names, [label_of(name) for name in names], COLUMNS, "no convolutional network learned")


def draw_all(networks: pd.DataFrame, spectrum: pd.DataFrame, skips: bool) -> Figure:
    """Filters by frequency, of all convolutional architectures without skip connections (figure 12) or with them (figure 13).
    Above: mean squared projection gamma of each layer's filters on the modes of the grid Laplacian, in order of
    frequency; mode 1 is the homogeneous filter. Below: the same relative to initialization. Deeper layers are lighter.
    Bands are the range over seeds.

    Args:
        networks, spectrum: the tables of these names.
        skips: figure 13, those with skip connections; else figure 12, those without.
    """
    chosen = _at_lowest_noise(networks, spectrum)
    names = [name for name in trained_architectures(chosen) if (name in ARCHITECTURES and ARCHITECTURES[name].skips) == skips]
    empty = f"no convolutional network {'with' if skips else 'without'} skip connections learned"
    return _draw(chosen, names, [label_of(name) for name in names], COLUMNS, empty)


def draw_pretrained(spectrum: pd.DataFrame) -> Figure:
    """Filters of networks that are pretrained on ImageNet. Above: mean squared projection gamma of each layer's filters on the
    modes of the grid Laplacian, in order of frequency; mode 1 is the homogeneous filter, and layers with larger filters have
    more modes. Below: the same relative to initialization. Deeper layers are lighter.

    Args:
        spectrum: the table of ImageNet networks.
    """
    names = [str(name) for name in spectrum["architecture"].unique()]
    return _draw(spectrum, names, names, _PRETRAINED_COLUMNS, "no network has filters of more than one pixel", "pretrained")


def _at_lowest_noise(networks: pd.DataFrame, spectrum: pd.DataFrame) -> pd.DataFrame:
    return of_learned(spectrum[spectrum["noise"] == spectrum["noise"].min()], networks)


def _draw(
    chosen: pd.DataFrame, names: Sequence[str], titles: Sequence[str], columns: int, empty: str, trained: str = "trained"
) -> Figure:
    """Two panels for each of ``names``, one above the other, in rows of at most ``columns`` such pairs.

    With filters of more than 5 x 5 sites among them, all axes of modes are logarithmic.
    """
    rows, columns = wrapped(len(names), columns)
    figure, axes = plt.subplots(2 * rows, columns, figsize=(WIDTH, 0.2 + 3.7 * rows), squeeze=False)
    if not names:
        for ax in axes[:, 0]:
            note_empty(ax, empty)
        return figure
    pairs = [(axes[2 * row, column], axes[2 * row + 1, column]) for row in range(rows) for column in range(columns)]
    for pair in pairs[len(names) :]:
        for ax in pair:
            ax.remove()
    pairs = pairs[: len(names)]
    shades = mpl.colormaps["viridis"].resampled(256)
    logarithmic = chosen.loc[chosen["architecture"].isin(names), "mode"].max() > _LINEAR_MODES
    for (above, below), name, title in zip(pairs, names, titles, strict=True):
        above.sharey(pairs[0][0])
        below.sharey(pairs[0][1])
        above.sharex(below)
        _draw_spectra(above, below, chosen[chosen["architecture"] == name], shades)
        above.set_title(title)
        above.tick_params(labelbottom=False)
        below.set_xlabel("mode $l$")
        if logarithmic:
            log_axis(below.xaxis)
        else:
            whole_numbers(below.xaxis)
    for place, (above, below) in enumerate(pairs):
        if place % columns:
            above.tick_params(labelleft=False)
            below.tick_params(labelleft=False)
        else:
            above.set_ylabel(r"$\gamma_{k,l}$")
            below.set_ylabel(rf"$\gamma_{{k,l}}$, {trained} / initial")
    log_axis(pairs[0][0].yaxis)
    log_axis(pairs[0][1].yaxis)
    legend_above(
        figure,
        [
            Line2D([], [], color=shades(0.45), label=trained),
            Line2D([], [], color=INITIAL, linestyle="--", label="initialization"),
        ],
    )
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1 / 0.9), shades),
        ax=[ax for pair in pairs for ax in pair],
        shrink=0.6 / rows,
        aspect=30,
        label="depth $k/K$",
    )
    bar.ax.set_ylim(0, 1)
    return figure


def _draw_spectra(above: Axes, below: Axes, rows: pd.DataFrame, shades: Any) -> None:
    """Spectra of all layers of one architecture: as they are above, relative to initialization below."""
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
