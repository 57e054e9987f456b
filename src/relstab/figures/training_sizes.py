"""Beyond the paper: test error and R of the output against the size P of the training set (Petrini et al., arXiv 2105.02468)."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relstab.figures.authors import geometric_means, training_set_sizes
from relstab.figures.style import WIDTH, label_of, log_axis, mark, note_empty, trained_architectures
from relstab.tables.networks import output_sensitivities

__all__ = ["draw"]

_DATASETS = {"cifar10": "CIFAR-10", "mnist": "MNIST"}
# The data set of the authors whose curve is shown; both curves for any other data set.
_SAME = {"cifar10": "cifar10", "mnist": "mnist", "mnist5k": "mnist"}
_LABELS = {"error": r"test error $\epsilon$", "R": "relative sensitivity $R_f$"}


def draw(networks: pd.DataFrame, sensitivity: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """Test error and R_f of the output of trained networks against the number P of training images, at the lowest noise level.
    Points are geometric means over seeds, bars Student's interval of the mean logarithm, with the spread of the seeds pooled over
    the sizes of an architecture. Grey: ResNets of Petrini et al. on CIFAR-10 and MNIST, with Student's interval of R.

    Networks that did not learn are left out.

    Args:
        networks, sensitivity: the tables of these names.
        confidence: of the intervals.
    """
    outputs = output_sensitivities(networks, sensitivity)
    outputs = outputs[(outputs["state"] == "trained") & (outputs["noise"] == networks["noise"].min())]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    datasets = {_SAME.get(str(name), "") for name in networks["dataset"].unique()}
    for ax, name in zip(axes, _LABELS, strict=True):
        _draw_authors(ax, name, datasets)
        for architecture in trained_architectures(outputs) if len(outputs) else []:
            rows = outputs[outputs["architecture"] == architecture]
            means = geometric_means(rows, ["training_images"], [name], confidence, pooled=True)
            bars = [(means[name] - means[f"{name}_low"]).fillna(0), (means[f"{name}_high"] - means[name]).fillna(0)]
            # Pale lines hardly show without a darker one below.
            ax.plot(means["training_images"], means[name], color="0.4", linewidth=2)
            look = mark(architecture) | {"linestyle": "-", "linewidth": 1.2, "ecolor": "0.4"}
            ax.errorbar(means["training_images"], means[name], yerr=bars, label=label_of(architecture), capsize=2, **look)
        ax.set(xlabel="training images $P$", ylabel=_LABELS[name])
        log_axis(ax.xaxis)
        log_axis(ax.yaxis)
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 1))
    if outputs.empty:
        note_empty(axes[0], "no network learned")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _draw_authors(ax: Axes, name: str, datasets: set[str]) -> None:
    table = training_set_sizes()
    for dataset, line in zip(_DATASETS, ("-", "--"), strict=True):
        if dataset not in datasets and datasets <= set(_DATASETS):
            continue
        rows = table[table["dataset"] == dataset]
        label = f"authors, ResNet, {_DATASETS[dataset]}, $c = {rows['cutoff'].iloc[0]}$"
        ax.plot(rows["training_images"], rows[name], color="0.6", linestyle=line, linewidth=2, label=label, zorder=0)
        if name == "R":
            ax.fill_between(rows["training_images"], rows["R_low"], rows["R_high"], color="0.6", alpha=0.25, linewidth=0)
