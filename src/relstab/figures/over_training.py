"""Beyond the paper: D, G and R of the layers over training."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from relstab.figures.style import WIDTH, label_of, log_axis, note_empty, trained_architectures
from relstab.paper_layers import paper_layers
from relstab.tables.networks import KEYS, error_above_zero, of_learned

__all__ = ["draw"]

_PALETTE = "crest"
_BLACK = {
    "color": "k", "marker": "o", "markersize": 3.5, "markeredgewidth": 0,
    "errorbar": ("pi", 100), "err_kws": {"alpha": 0.2, "linewidth": 0},
}  # fmt: skip


def _epoch_axis(ax: Axes, last: int) -> None:
    """Epochs by their logarithm, with the initialization as epoch 0 beside the first."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.5)
    digits = (1, 2, 5) if last < 50 else (1,)
    ax.xaxis.set_major_locator(FixedLocator([0, *(digit * 10**power for power in range(6) for digit in digits)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlim(-0.2, last * 1.15)


def _draw_sensitivity(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    inner = rows[(rows["k"] > 0) & (rows["layer"] != "output")]
    common = {"x": "epoch", "y": name, "ax": ax, "legend": False}
    sns.lineplot(inner, hue="depth", hue_norm=(0, 1), palette=_PALETTE, errorbar=None, linewidth=0.9, **common)
    output = rows[rows["layer"] == "output"]
    sns.lineplot(output, **common, **_BLACK)
    ax.set(xlabel="", ylabel=f"${name}$")


def draw(networks: pd.DataFrame, over_training: pd.DataFrame) -> Figure:
    """D, G and R of the layers during training, from initialization (epoch 0) to the last epoch, with the test error below, at
    the lowest noise level. Lines are means over seeds; the band of the output is their range.

    Layers of the paper are coloured by their depth, from light to dark; the output is black. Networks that did not learn are left
    out.

    Args:
        networks, over_training: the tables of these names.
    """
    chosen = of_learned(over_training[over_training["noise"] == over_training["noise"].min()], networks)
    names = trained_architectures(chosen) if len(chosen) else []
    width = min(WIDTH, 1.2 + 1.6 * max(len(names), 1))
    figure, axes = plt.subplots(4, max(len(names), 1), figsize=(width, 5.6), sharex="col", sharey="row", squeeze=False)
    if not names:
        for ax in axes[:, 0]:
            note_empty(ax, "no network learned")
        return figure
    for column, name in zip(axes.T, names, strict=True):
        own = chosen[chosen["architecture"] == name]
        rows = paper_layers(own, [*KEYS, "epoch"])
        for ax, sensitivity in zip(column, ("D", "G", "R"), strict=False):
            _draw_sensitivity(ax, rows, sensitivity)
        errors = own.drop_duplicates([*KEYS, "epoch"]).dropna(subset="test_error")
        errors = errors.merge(networks[[*KEYS, "test_images"]], on=KEYS)
        errors["test_error"] = error_above_zero(errors)
        sns.lineplot(errors, x="epoch", y="test_error", ax=column[3], legend=False, **_BLACK)
        column[3].set(xlabel="epoch", ylabel=r"test error $\epsilon$")
        column[0].set_title(label_of(name))
        _epoch_axis(column[3], int(own["epoch"].max()))
    for row in axes:
        log_axis(row[0].yaxis)
        for ax in row[1:]:
            ax.set_ylabel("")
    shades = sns.color_palette(_PALETTE, 3)
    figure.legend(
        handles=[
            Line2D([], [], color=shades[0], label="first layers"),
            Line2D([], [], color=shades[2], label="last layers"),
            Line2D([], [], color="k", marker="o", markersize=3.5, label="output"),
        ],
        loc="outside upper center",
        ncols=3,
    )
    return figure
