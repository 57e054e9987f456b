"""Figure 3: R_k against depth, original and with shuffled channels, at initialization and trained."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.style import INITIAL, WIDTH, draw_layers, label_of, log_axis, note_empty, trained_architectures
from relstab.paper_layers import paper_layers
from relstab.tables import KEYS, of_learned

__all__ = ["draw"]


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> Figure:
    """Draw figure 3, a panel for each architecture whose channels were shuffled, at the lowest noise level that has shuffles.

    Bands are the range over seeds and, where shuffled, over shuffles. Networks that did not learn are left out.

    Args:
        networks, sensitivity: the tables of these names.
    """
    shuffled = sensitivity["shuffle"] != "none"
    level = sensitivity.loc[shuffled, "noise"].min()
    chosen = of_learned(sensitivity[sensitivity["noise"] == level], networks)
    names = trained_architectures(chosen[chosen["shuffle"] != "none"]) if len(chosen) else []
    figure, axes = plt.subplots(1, max(len(names), 1), figsize=(WIDTH, 2.3), sharey=True, squeeze=False)
    if not names:
        note_empty(axes[0, 0], "no network that was shuffled learned")
        return figure
    for ax, name in zip(axes[0], names, strict=True):
        rows = paper_layers(chosen[chosen["architecture"] == name], [*KEYS, "state", "shuffle"])
        rows = rows.assign(shuffled=rows["shuffle"] != "none")
        for state, colour in (("init", INITIAL), ("trained", "k")):
            for is_shuffled, line in ((False, "-"), (True, "--")):
                part = rows[(rows["state"] == state) & (rows["shuffled"] == is_shuffled)]
                mark = None if is_shuffled else ("o" if state == "trained" else "s")
                draw_layers(ax, part, "R", colour, line, mark)
        ax.set_title(label_of(name))
    log_axis(axes[0, 0].yaxis)
    axes[0, 0].legend(
        handles=[
            Line2D([], [], color="k", marker="o", markersize=3.5, label="trained"),
            Line2D([], [], color="k", linestyle="--", label="trained, shuffled"),
            Line2D([], [], color=INITIAL, marker="s", markersize=3.5, label="initialization"),
            Line2D([], [], color=INITIAL, linestyle="--", label="initialization, shuffled"),
        ],
        loc="lower left",
    )
    return figure
