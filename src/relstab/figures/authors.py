"""Numbers that the authors measured themselves, which figures show beside those of a run.

They are geometric means over networks, with the standard deviation of the natural logarithm (``_logsd``), of data files in the
history of leonardopetrini/diffeo-sota (commit 12915f1, February 2021), the code of Petrini et al., arXiv 2105.02468.
Interpolation is bilinear. Their temperature is n^2 times that of :func:`relstab.temperature`; ``displacement`` is that of
:func:`relstab.typical_displacement`.

``authors_training_set_size.csv``: R of the output and test error of ResNets against the number of training images, on CIFAR-10
(cutoff 5) and MNIST (cutoff 3), 15 to 45 networks each, trained for the mean number of epochs that is given. The repository has
ResNet18, trained with SGD or Adam until long after zero loss; what else was done, and whether R is of means or of medians over
images, is not known.

``authors_efficientnet_b0.csv``: D, G and R, means over images, of EfficientNetB0 on CIFAR-10: of 16 networks at initialization
(batch norm with each version's own statistics) and trained (all 50,000 images, error 11.2%), and D of the input, at 30
temperatures for each cutoff 3, 5 and 15.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student  # type: ignore[import-untyped]

__all__ = ["efficientnet", "geometric_means", "training_set_sizes"]


def training_set_sizes() -> pd.DataFrame:
    """dataset ("cifar10" or "mnist"), cutoff, training_images, R with R_low and R_high (95%), error, networks, epochs."""
    return _with_interval(pd.read_csv(Path(__file__).with_name("authors_training_set_size.csv")), ["R"])


def efficientnet() -> pd.DataFrame:
    """cutoff, representation ("input" or "output"), state, displacement, and D, G, R, each with _low and _high (95%)."""
    return _with_interval(pd.read_csv(Path(__file__).with_name("authors_efficientnet_b0.csv")), ["D", "G", "R"])


def _with_interval(table: pd.DataFrame, columns: list[str], confidence: float = 0.95) -> pd.DataFrame:
    """Add the ends of Student's interval of a geometric mean, exp(ln X -+ t s / sqrt(n))."""
    freedom = table["freedom"] if "freedom" in table else table["networks"] - 1
    for name in columns:
        half = student.ppf((1 + confidence) / 2, freedom) * table[f"{name}_logsd"] / np.sqrt(table["networks"])
        table[f"{name}_low"], table[f"{name}_high"] = table[name] * np.exp(-half), table[name] * np.exp(half)
    return table


def geometric_means(
    table: pd.DataFrame, by: list[str], columns: list[str], confidence: float, pooled: bool = False
) -> pd.DataFrame:
    """Geometric mean of each of ``columns`` over the networks of a group, as X, X_low and X_high, and their number, networks.

    X_low and X_high are the ends of Student's interval of the mean logarithm; NaN for a single network. If ``pooled``, all groups
    have the same standard deviation of the logarithm, s^2 = sum (n_g - 1) s_g^2 / sum (n_g - 1), with as many degrees of freedom:
    two networks alone leave one, and an interval of 9 standard deviations to either side.
    """
    logarithms = table[by].assign(**{name: np.log(table[name]) for name in columns})
    groups = logarithms.groupby(by)
    means: pd.DataFrame = groups[columns].mean().map(np.exp)
    spreads, size = groups[columns].std(), groups.size()
    means = means.join(spreads.add_suffix("_logsd")).assign(networks=size)
    if pooled:
        freedom = (size - 1).sum()
        pool = np.sqrt((spreads**2).mul(size - 1, axis=0).sum(min_count=1) / max(freedom, 1))
        means = means.assign(freedom=freedom, **pool.add_suffix("_logsd"))
    return _with_interval(means.reset_index(), columns, confidence)
