"""What all figures share: colours and marks that tell networks apart in grey as well, sizes, labels, saving."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from relstab.architectures import ARCHITECTURES
from relstab.files.hdf5 import atomic_path

__all__ = [
    "INITIAL",
    "draw_errors",
    "draw_layers",
    "draw_states",
    "empty_figure",
    "handles_of_states",
    "label_of",
    "legend_above",
    "legend_of_architectures",
    "log_axis",
    "mark",
    "noise_labels",
    "note_empty",
    "rho_title",
    "save_figure",
    "show_image",
    "spread_out",
    "style",
    "trained_architectures",
    "whole_numbers",
    "wrapped",
]

WIDTH = 7.0
"""Width of a full-page figure, in inches."""

COLUMNS = 6
"""Columns of panels that a full-page figure has room for."""

INITIAL = "0.55"
"""Grey of what is measured at initialization."""

# Digits that have a tick label, by the number of decades that the axis spans.
_TICKS: list[tuple[float, tuple[float, ...]]] = [
    (0.25, (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)),
    (0.8, (1, 1.5, 2, 3, 4, 5, 7)),
    (2.2, (1, 2, 5)),
    (math.inf, (1,)),
]

_ROOM = {"x": 0.3, "y": 0.14}
"""Inches between two tick labels."""

# As many as there are architectures; (4, 1, 45) is a star with four points, turned by 45 degrees.
_MARKS: list[Any] = [
    "o",
    "s",
    "p",
    "^",
    "D",
    "v",
    "P",
    "X",
    "*",
    "<",
    ">",
    "h",
    "d",
    (4, 1, 0),
    (4, 1, 45),
    (3, 1, 0),
    (8, 1, 0),
    (6, 1, 0),
    "H",
    "8",
]


_GOLDEN = (math.sqrt(5) - 1) / 2


def label_of(architecture: str) -> str:
    """Name of an architecture in figures."""
    return ARCHITECTURES[architecture].label if architecture in ARCHITECTURES else architecture


def trained_architectures(table: pd.DataFrame) -> list[str]:
    """Architectures in ``table``, in the order of the registry."""
    present = set(table["architecture"])
    return [name for name in ARCHITECTURES if name in present] + sorted(present - set(ARCHITECTURES))


def spread_out(names: Sequence[str]) -> list[str]:
    """All names, if there are columns for them; otherwise as many in equal steps, with the first and the last."""
    if len(names) <= COLUMNS:
        return list(names)
    return [names[round(place * (len(names) - 1) / (COLUMNS - 1))] for place in range(COLUMNS)]


def wrapped(panels: int, columns: int = COLUMNS) -> tuple[int, int]:
    """Rows and columns for this many panels: as few rows as possible, filled as evenly as possible."""
    rows = max(1, math.ceil(panels / columns))
    return rows, max(1, math.ceil(panels / rows))


@contextmanager
def style(font_size: float) -> Iterator[None]:
    """Settings of all figures: a plain frame, small legends, fonts that stay text in the PDF; the user's settings are ignored."""
    settings: dict[Any, Any] = {
        "font.size": font_size,
        "axes.titlesize": font_size,
        "axes.labelsize": font_size,
        "xtick.labelsize": font_size - 1,
        "ytick.labelsize": font_size - 1,
        "legend.fontsize": font_size - 1,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
        "axes.linewidth": 0.7,
        "pdf.fonttype": 42,
        "figure.constrained_layout.use": True,
    }
    # Not those of a user's matplotlibrc.
    with mpl.rc_context():
        mpl.rcdefaults()
        with sns.axes_style("ticks"), mpl.rc_context(settings):
            yield


def log_axis(axis: Any) -> None:
    """Logarithmic axis with plain numbers: at powers of ten over many decades, at more of the digits the shorter the range.

    Call it when the data are drawn.
    """
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    width, height = axis.axes.bbox.size / axis.axes.figure.dpi
    room = (_ROOM["x"] / width if axis.axis_name == "x" else _ROOM["y"] / height) * decades
    finest = next(number for number, (limit, _) in enumerate(_TICKS) if decades < limit)
    ticks: list[float] = []
    for _, digits in reversed(_TICKS[finest:]):  # the roundest first: a number with no room beside them has no label
        for tick in (digit * 10.0**power for power in range(-12, 13) for digit in digits):
            if low <= tick <= high and all(abs(math.log10(tick / other)) >= room for other in ticks):
                ticks.append(tick)
    axis.set_major_locator(FixedLocator(sorted(ticks)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=40))
    axis.set_minor_formatter(NullFormatter())


def draw_errors(ax: Axes, rows: pd.DataFrame, name: str, **look: Any) -> None:
    """Draw test errors against one sensitivity of the output, from :func:`relstab.tables.networks.output_sensitivities`.

    Bars are one standard error: of the sensitivity over the probes, and of the test error sqrt(eps (1 - eps) / test images), that
    of its binomial distribution. On the logarithmic axis the lower bar ends no lower than a tenth of the error.
    """
    error = rows["error"]
    spread = np.sqrt(error * (1 - error) / rows["test_images"])
    ax.errorbar(rows[name], error, xerr=rows[f"{name}_sem"], yerr=[np.minimum(spread, 0.9 * error), spread], **look)


def rho_title(correlation: pd.DataFrame, noise: float, name: str) -> str:
    """Title of a panel: rho of all trained networks with D, G or R, and its interval; "" where there is none."""
    chosen = correlation[(correlation["noise"] == noise) & (correlation["sensitivity"] == name)]
    chosen = chosen.query("state == 'trained' and group == 'all'")
    if not np.isfinite(chosen["rho"]).any():
        return ""
    row = chosen.iloc[0]
    interval = "" if np.isnan(row["low"]) else rf"$\quad [{row['low']:.2f}, {row['high']:.2f}]$"
    return rf"$\rho(\log\epsilon, \log {name}_f) = {row['rho']:.2f}${interval}"


def empty_figure(what: str) -> Figure:
    """A small figure that says why there is nothing to draw."""
    figure, ax = plt.subplots(figsize=(WIDTH / 2, 1.2))
    note_empty(ax, what)
    return figure


def noise_labels(levels: Sequence[float]) -> list[str]:
    """Noise levels with as many digits as tell them apart, at least 6 and at most 17."""
    for digits in range(6, 18):
        labels = [f"{level:.{digits}g}" for level in levels]
        if len(set(labels)) == len(set(levels)):
            break
    return labels


def whole_numbers(axis: Any) -> None:
    """Axis of layers or modes: a few whole numbers."""
    axis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def draw_layers(ax: Axes, rows: pd.DataFrame, name: str, colour: str, line: str, marker: str | None) -> None:
    """Draw one sensitivity against the number of the layer: the mean over networks, and their range as a band."""
    sns.lineplot(
        data=rows,
        x="k",
        y=name,
        ax=ax,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=3.5,
        markeredgewidth=0,
        estimator="mean",
        errorbar=("pi", 100),
        err_kws={"alpha": 0.2, "linewidth": 0},
        legend=False,
    )
    ax.set(xlabel="layer $k$", ylabel=f"${name}_k$")
    whole_numbers(ax.xaxis)


def draw_states(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    """Draw one sensitivity by layer as :func:`draw_layers`, trained in black, and at initialization dashed in grey."""
    for state, look in (("init", (INITIAL, "--", "s")), ("trained", ("k", "-", "o"))):
        draw_layers(ax, rows[rows["state"] == state], name, *look)


def handles_of_states() -> list[Line2D]:
    """Handles of a legend of :func:`draw_states`."""
    return [
        Line2D([], [], color="k", marker="o", markersize=3.5, label="trained"),
        Line2D([], [], color=INITIAL, linestyle="--", marker="s", markersize=3.5, label="initialization"),
    ]


def note_empty(ax: Axes, what: str) -> None:
    """Say in an empty panel why it is empty."""
    ax.text(0.5, 0.5, what, transform=ax.transAxes, ha="center", va="center", color=INITIAL)
    ax.set(xticks=[], yticks=[])


def show_image(ax: Axes, image: NDArray[np.float32], limits: tuple[float, float] | None = None) -> None:
    """Draw a normalised image [C, n, n], grey or colour; values outside ``limits`` are clipped."""
    low, high = limits or (float(image.min()), float(image.max()))
    scaled = np.clip((image - low) / max(high - low, 1e-12), 0, 1).transpose(1, 2, 0)
    if scaled.shape[2] == 3:
        ax.imshow(scaled, interpolation="nearest")
    else:
        ax.imshow(scaled[..., 0], cmap="gray", interpolation="nearest", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])


def mark(architecture: str) -> dict[str, Any]:
    """Look of the points of one architecture, the same in all figures: colour, lightness and shape tell them apart.

    Lightness grows from black to pale along the palette. Neighbours in the registry, often in one figure, are the golden ratio of
    it apart.
    """
    index = list(ARCHITECTURES).index(architecture) if architecture in ARCHITECTURES else len(ARCHITECTURES)
    places = [(place * _GOLDEN) % 1 for place in range(len(ARCHITECTURES) + 1)]
    palette = sns.color_palette("cubehelix", len(places))
    return {
        "linestyle": "none",
        "marker": _MARKS[index % len(_MARKS)],
        "color": palette[sorted(places).index(places[index])],
        "markeredgecolor": "k",
        "markeredgewidth": 0.4,
        "elinewidth": 0.6,
    }


def legend_above(figure: Figure, handles: list[Line2D]) -> None:
    """Legend in one line above all panels: in one of six it would cover the lines."""
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def legend_of_architectures(names: list[str]) -> list[Line2D]:
    """Handles of a legend of marks."""
    looks = [{key: value for key, value in mark(name).items() if key != "elinewidth"} for name in names]
    return [Line2D([], [], label=label_of(name), **look) for name, look in zip(names, looks, strict=True)]


def save_figure(figure: Figure, paths: Iterable[str | Path], dpi: int, note: str = "") -> None:
    """Write a figure to each path, in the format of its suffix, atomically, and close it. A note is a line below it."""
    width, height = figure.get_size_inches()
    below = 0.22 if note else 0.0
    if note:
        figure.canvas.draw()
        figure.set_layout_engine("none")  # the legend below the panels would follow the edge of the page to the note
        for legend in figure.legends:
            corner = legend.get_window_extent().transformed(figure.transFigure.inverted()).p0
            legend.set_loc("lower left")
            legend.set_bbox_to_anchor(corner, transform=figure.transFigure)
            legend.borderaxespad = 0
        figure.text(1 - 0.05 / width, -0.05 / height, note, ha="right", va="top", fontsize="small", color="0.35")
    for path in paths:
        with atomic_path(path) as temporary:
            # No date: the same drawing gives the same file.
            metadata = {"CreationDate": None} if Path(path).suffix == ".pdf" else {}
            figure.savefig(temporary, dpi=dpi, metadata=metadata, bbox_inches=Bbox([[0, -below], [width, height]]))
    plt.close(figure)
