"""Figure 11: D_k and G_k against depth, at initialization and trained."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from relstab.figures.style import (
    WIDTH,
    draw_states,
    handles_of_states,
    label_of,
    legend_above,
    log_axis,
    note_empty,
    spread_out,
    trained_architectures,
)
from relstab.paper_layers import paper_layers
from relstab.tables.networks import KEYS, of_learned

__all__ = ["draw"]


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> Figure:
    """D_k (above) and G_k (below) of the k-th layer, after its activation, trained and at initialization. Bands are the range
    over seeds. Of more than six architectures the figure shows six, evenly spread over the list.

    Lines are means over seeds. Networks that did not learn are left out.

    Args:
        networks, sensitivity: the tables of these names.
    """
    plain = sensitivity[(sensitivity["noise"] == sensitivity["noise"].min()) & (sensitivity["shuffle"] == "none")]
    chosen = of_learned(plain, networks)
    names = spread_out(trained_architectures(chosen))
    figure, axes = plt.subplots(2, max(len(names), 1), figsize=(WIDTH, 3.4), sharex="col", sharey="row", squeeze=False)
    if not names:
        for ax in axes[:, 0]:
            note_empty(ax, "no network learned")
        return figure
    for column, name in zip(axes.T, names, strict=True):
        rows = paper_layers(chosen[chosen["architecture"] == name], [*KEYS, "state"])
        for ax, sensitivity_name in zip(column, ("D", "G"), strict=True):
            draw_states(ax, rows, sensitivity_name)
        column[0].set_title(label_of(name))
    for ax in axes[:, 0]:
        log_axis(ax.yaxis)
    legend_above(figure, handles_of_states())
    return figure
