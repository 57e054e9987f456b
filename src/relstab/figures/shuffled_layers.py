"""Figure 3, and the same of ImageNet networks: R_k by layer, as they are and with shuffled channels, trained and initial."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.style import (
    COLUMNS,
    INITIAL,
    WIDTH,
    draw_layers,
    label_of,
    legend_above,
    log_axis,
    note_empty,
    spread_out,
    trained_architectures,
    wrapped,
)
from relstab.paper_layers import paper_layers
from relstab.tables.networks import KEYS, of_learned

__all__ = ["draw", "draw_pretrained"]

# Names of pretrained networks are longer than those of the run.
_PRETRAINED_COLUMNS = 4


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame) -> Figure:
    """R_k of the k-th layer, after its activation; k = 0 is the input, the last point the output. Full lines: the network;
    dashed lines: the same network with the channels between convolutions shuffled. Black: trained; grey: at
    initialization. Bands are the range over seeds and shuffles. Of more than six architectures the figure shows six,
    evenly spread over the list.

    Networks that did not learn are left out.

    Args:
        networks, sensitivity: the tables of these names.
    """
    shuffled = sensitivity["shuffle"] != "none"
    level = sensitivity.loc[shuffled, "noise"].min()
    chosen = of_learned(sensitivity[sensitivity["noise"] == level], networks)
    names = spread_out(trained_architectures(chosen[chosen["shuffle"] != "none"]))
    return _draw(chosen, names, [label_of(name) for name in names], COLUMNS, "no network that was shuffled learned")


def draw_pretrained(sensitivity: pd.DataFrame) -> Figure:
    """R_k of the k-th layer, after its activation, of pretrained networks on validation images; k = 0 is the input, the
    last point the output. Full lines: the network; dashed lines: with the channels between convolutions shuffled, bands
    are the range over shuffles. Black: pretrained; grey: at initialization.

    Args:
        sensitivity: the table of ImageNet networks.
    """
    names = [str(name) for name in sensitivity["architecture"].unique()]
    return _draw(sensitivity, names, names, _PRETRAINED_COLUMNS, "no network was measured", "pretrained")


def _draw(
    chosen: pd.DataFrame, names: Sequence[str], titles: Sequence[str], columns: int, empty: str, trained: str = "trained"
) -> Figure:
    """A panel for each of ``names``, in rows of at most ``columns``."""
    rows_of_panels, columns = wrapped(len(names), columns)
    figure, axes = plt.subplots(rows_of_panels, columns, figsize=(WIDTH, 0.2 + 2.3 * rows_of_panels), sharey=True, squeeze=False)
    if not names:
        note_empty(axes[0, 0], empty)
        return figure
    for ax in axes.flat[len(names) :]:
        ax.remove()
    for ax, name, title in zip(axes.flat, names, titles, strict=False):
        of_network = (chosen["architecture"] == name) & (chosen["statistics"] != "recalibrated")
        rows = paper_layers(chosen[of_network], [*KEYS, "state", "shuffle"])
        rows = rows.assign(shuffled=rows["shuffle"] != "none")
        for state, colour in (("init", INITIAL), ("trained", "k")):
            for is_shuffled, line in ((False, "-"), (True, "--")):
                part = rows[(rows["state"] == state) & (rows["shuffled"] == is_shuffled)]
                mark = None if is_shuffled else ("o" if state == "trained" else "s")
                draw_layers(ax, part, "R", colour, line, mark)
        ax.set_title(title)
    log_axis(axes[0, 0].yaxis)
    legend_above(
        figure,
        [
            Line2D([], [], color="k", marker="o", markersize=3.5, label=trained),
            Line2D([], [], color="k", linestyle="--", label=f"{trained}, shuffled"),
            Line2D([], [], color=INITIAL, marker="s", markersize=3.5, label="initialization"),
            Line2D([], [], color=INITIAL, linestyle="--", label="initialization, shuffled"),
        ],
    )
    return figure
