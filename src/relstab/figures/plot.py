"""D, G and R by layer, drawn from tables in a notebook or a script. This needs matplotlib alone: ``relstab[plot]``."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from relstab.paper_layers import paper_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_layers"]

_TITLES = {"D": "deformations, $D_k$", "G": "noise, $G_k$", "R": "relative, $R_k = D_k / G_k$"}
# Half of an interval of 95%, in standard errors.
_HALF = 1.96

Tables = pd.DataFrame | Mapping[str, pd.DataFrame]


def _named(tables: Tables) -> dict[str, pd.DataFrame]:
    named = {"": tables} if isinstance(tables, pd.DataFrame) else dict(tables)
    if not named:
        raise ValueError("expected a table, or tables by name, got none")
    for name, table in named.items():
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"expected tables of relstab.measure_sensitivity by name, got {type(table).__name__} for {name!r}")
    return named


def _rows(name: str, table: pd.DataFrame, what: Sequence[str], layers: str) -> pd.DataFrame:
    missing = [column for column in ("layer", "kind", "index", "depth", *what) if column not in table]
    if missing:
        raise ValueError(f"expected a column {missing[0]!r} in the table {name!r}, got {', '.join(map(str, table.columns))}")
    if table["index"].duplicated().any():
        raise ValueError(f"expected the rows of one network in the table {name!r}, got several: {{name: rows}} draws them")
    if layers == "all":
        return table.sort_values("index")
    try:
        chosen = paper_layers(table.assign(network=0), ["network"])
    except ValueError:  # no activation among its rows
        return table.sort_values("index")
    return chosen if len(chosen) > 2 else table.sort_values("index")


def _draw(ax: "Axes", rows: pd.DataFrame, quantity: str, label: str, colour: str, line: str) -> None:
    values = rows[quantity].where(rows[quantity] > 0)
    ax.plot(rows["depth"], values, line, color=colour, label=label, marker="o", markersize=3)
    if f"{quantity}_sem" in rows:
        half = _HALF * rows[f"{quantity}_sem"]
        # On the logarithmic axis an interval that reaches 0 ends a decade below its value.
        ax.fill_between(
            rows["depth"], (values - half).clip(lower=values / 10), values + half, color=colour, alpha=0.2, linewidth=0
        )


def plot_layers(
    tables: Tables, what: Sequence[str] = ("D", "G", "R"), shuffled: Tables | None = None, layers: str = "paper"
) -> "Figure":
    """Sensitivities by layer against the relative depth k / K, from the input (0) to the output (1), with intervals of 95%.

    Args:
        tables: from :func:`relstab.measure_sensitivity`: one, or several by name. Rows with a column ``shuffle`` that is not
            "none" are drawn in dashes.
        what: one panel for each of these columns.
        shuffled: the same with shuffled channels, drawn in dashes, by the same names.
        layers: "paper" draws the activations that follow weights, see :func:`relstab.paper_layers.paper_layers` (all rows, where
            the table has none of them); "all" draws every row.

    Returns:
        The figure. In a notebook it is shown as the last value of a cell.

    Raises:
        ValueError: a table lacks a column or holds several networks.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if layers not in ("paper", "all"):
        raise ValueError(f"expected layers to be 'paper' or 'all', got {layers!r}")
    what = [what] if isinstance(what, str) else list(what)
    solid, dashed = _named(tables), _named(shuffled) if shuffled is not None else {}
    lines: list[tuple[str, pd.DataFrame, str]] = []
    for name, table in solid.items():
        if "shuffle" in table:
            whole = table["shuffle"].astype(str) == "none"
            lines += [(name, table[whole], "-")] if whole.any() else []
            lines += [(name, part, "--") for _, part in table[~whole].groupby("shuffle")]
        else:
            lines.append((name, table, "-"))
    lines += [(name, table, "--") for name, table in dashed.items()]
    drawn = [(name, _rows(name, table, what, layers), line) for name, table, line in lines]

    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("expected matplotlib, which is not installed: pip install 'relstab[plot]'") from error
    figure, axes = plt.subplots(1, len(what), figsize=(0.6 + 3.2 * len(what), 3.2), squeeze=False, layout="constrained")
    colours = {name: f"C{place}" for place, name in enumerate(dict.fromkeys([*solid, *dashed]))}
    for ax, quantity in zip(axes[0], what, strict=True):
        labelled = set()
        for name, rows, line in drawn:
            label = ", ".join(filter(None, (name, "shuffled" if line == "--" else "")))
            _draw(ax, rows, quantity, "_" if label in labelled else label or "_", colours[name], line)
            labelled.add(label)
        if quantity.startswith("R"):
            ax.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        ax.set(yscale="log", xlabel="relative depth $k / K$", title=_TITLES.get(quantity, quantity))
    if axes[0, 0].get_legend_handles_labels()[1]:
        axes[0, 0].legend(frameon=False)
    if "inline" in plt.get_backend():  # which would show it once more at the end of the cell
        plt.close(figure)
    return figure
