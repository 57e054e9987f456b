"""Figure 11: D_k and G_k against depth, at initialization and trained."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.style import INITIAL, WIDTH, label_of, log_axis, note_empty, trained_architectures, whole_numbers
from relstab.paper_layers import paper_layers
from relstab.tables import KEYS

__all__ = ["draw"]


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> Figure:
    """Draw figure 11: a column for each architecture, D_k above and G_k below, at the lowest noise level.

    Lines are means over seeds, bands their range. Networks that did not learn are left out.

    Args:
        networks, sensitivity: the tables of these names.
    """
    plain = sensitivity[(sensitivity["noise"] == sensitivity["noise"].min()) & (sensitivity["shuffle"] == "none")]
    chosen = plain.merge(networks.loc[networks["learned"], KEYS], on=KEYS)
    names = trained_architectures(chosen) if len(chosen) else []
    figure, axes = plt.subplots(2, max(len(names), 1), figsize=(WIDTH, 3.2), sharex="col", sharey="row", squeeze=False)
    if not names:
        for ax in axes[:, 0]:
            note_empty(ax, "no network learned")
        return figure
    for column, name in zip(axes.T, names, strict=True):
        rows = paper_layers(chosen[chosen["architecture"] == name], [*KEYS, "state"])
        for ax, sensitivity_name in zip(column, ("D", "G"), strict=True):
            for state, colour, mark in (("init", INITIAL, "s"), ("trained", "k", "o")):
                sns.lineplot(
                    data=rows[rows["state"] == state],
                    x="k",
                    y=sensitivity_name,
                    ax=ax,
                    color=colour,
                    marker=mark,
                    markersize=3.5,
                    markeredgewidth=0,
                    linestyle="--" if state == "init" else "-",
                    estimator="mean",
                    errorbar=("pi", 100),
                    err_kws={"alpha": 0.2, "linewidth": 0},
                    legend=False,
                )
            ax.set(xlabel="layer $k$", ylabel=f"${sensitivity_name}_k$")
        column[0].set_title(label_of(name))
        whole_numbers(column[1].xaxis)
    for ax in axes[:, 0]:
        log_axis(ax.yaxis)
    axes[0, 0].legend(
        handles=[
            Line2D([], [], color="k", marker="o", markersize=3.5, label="trained"),
            Line2D([], [], color=INITIAL, linestyle="--", marker="s", markersize=3.5, label="initialization"),
        ],
        loc="best",
    )
    return figure
