"""Beyond the paper: test error and training loss by epoch."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relstab.figures.style import label_of, log_axis, note_empty, trained_architectures, whole_numbers, wrapped
from relstab.tables.networks import error_above_zero, keys_of

__all__ = ["draw"]


def draw(history: pd.DataFrame, networks: pd.DataFrame) -> Figure:
    """Test error (full) and training loss (dashed) by epoch, one panel per architecture, one colour per noise level. Lines are
    means over seeds, bands their range; an error of 0 counts as half a test image. Networks that did not learn are shown, too.

    Args:
        history, networks: the tables of these names.
    """
    keys = keys_of(networks)
    history = history.merge(networks[[*keys, "test_images"]], on=keys)
    history["test_error"] = error_above_zero(history)
    names = trained_architectures(history)
    rows, columns = wrapped(len(names), 4)
    figure, axes = plt.subplots(rows, columns, figsize=(1.2 + 1.6 * columns, 0.6 + 1.6 * rows), sharey=True, squeeze=False)
    levels = sorted(history["noise"].unique())
    colours = dict(zip(levels, sns.color_palette("viridis", len(levels)), strict=True))
    for ax, name in zip(axes.flat, names, strict=False):
        for noise, own in history[history["architecture"] == name].groupby("noise"):
            for column, line in (("test_error", "-"), ("train_loss", "--")):
                curve = own.groupby("epoch")[column].agg(["mean", "min", "max"])
                curve = curve.where(curve > 0)  # a loss of 0 has no place on the axis
                ax.plot(curve.index, curve["mean"], line, color=colours[noise])
                ax.fill_between(curve.index, curve["min"], curve["max"], color=colours[noise], alpha=0.15, linewidth=0)
        ax.set(title=label_of(name), xlabel="epoch")
        whole_numbers(ax.xaxis)
    for ax in axes.flat[len(names) :]:
        ax.remove()
    if not names:
        note_empty(axes[0, 0], "no networks")
        return figure
    log_axis(axes[0, 0].yaxis)
    axes[0, 0].set_ylabel(r"test error $\epsilon$, training loss")
    handles = [Line2D([], [], color=colours[noise], label=rf"$\sigma = {noise:g}$") for noise in levels]
    handles += [
        Line2D([], [], color="0.4", label="test error"),
        Line2D([], [], color="0.4", linestyle="--", label="training loss"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5))
    return figure
