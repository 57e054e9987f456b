"""Figure 9: D_k, G_k and R_k of the deep networks on the scale-detection task on images, at initialization and trained."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from relstab.figures.style import (
    WIDTH,
    draw_states,
    empty_figure,
    handles_of_states,
    label_of,
    log_axis,
    trained_architectures,
    wrapped,
)
from relstab.paper_layers import paper_layers
from relstab.tables.networks import KEYS, of_learned

__all__ = ["draw"]

_NAMES = ("D", "G", "R")


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> Figure:
    """D_k, G_k and R_k of the k-th layer, after its activation, of the deep networks on images with two lit pixels, trained
    and at initialization; k = 0 is the input, the last point the output. Bands are the range over seeds.

    Lines are means over seeds. Networks that did not learn are left out.

    Args:
        networks, sensitivity: the tables of these names for the deep networks on the images with two lit pixels.
    """
    plain = sensitivity[(sensitivity["noise"] == sensitivity["noise"].min()) & (sensitivity["shuffle"] == "none")]
    chosen = of_learned(plain, networks)
    if chosen.empty:
        return empty_figure("no network learned")
    names = trained_architectures(chosen)
    blocks, columns = wrapped(len(names))
    figure = plt.figure(figsize=(WIDTH, 0.3 + 3.7 * blocks))
    parts: Any = figure.subfigures(blocks, 1, squeeze=False)
    for block, part in enumerate(parts[:, 0]):
        axes: Any = part.subplots(len(_NAMES), columns, sharex="col", sharey="row", squeeze=False)
        for ax, sensitivity_name in zip(axes[:, 0], _NAMES, strict=True):
            ax.set_ylabel(f"${sensitivity_name}_k$")
        here = names[block * columns : (block + 1) * columns]
        for column, name in zip(axes.T, here, strict=False):
            rows = paper_layers(chosen[chosen["architecture"] == name], [*KEYS, "state"])
            for ax, sensitivity_name in zip(column, _NAMES, strict=True):
                draw_states(ax, rows, sensitivity_name)
                ax.label_outer()
            column[0].set_title(label_of(name), pad=3)
        for column in axes.T[len(here) :]:
            for ax in column:
                ax.set_visible(False)
        for ax in axes[:, 0]:
            log_axis(ax.yaxis)
    figure.legend(handles=handles_of_states(), loc="outside lower center", ncols=2)
    return figure
