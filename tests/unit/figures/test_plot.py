"""plot_layers: what it draws is what the tables say; importing figures leaves the backend alone."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import relstab


def table(scale=1.0):
    layers = ["input", "conv", "act", "fc", "act2", "output"]
    rows = pd.DataFrame({"layer": layers, "kind": ["input", "Conv2d", "ReLU", "Linear", "ReLU", "output"], "index": range(6)})
    rows["depth"] = rows["index"] / 5
    for quantity, factor in (("D", 1), ("G", 2), ("R", 0.5)):
        rows[quantity] = scale * factor * (1.0 + rows["index"])
        rows[f"{quantity}_sem"] = 0.1 * rows[quantity]
    return rows


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_lines_are_the_layers_of_the_paper_with_intervals():
    figure = relstab.plot_layers(table(), what=("D", "R"))
    for ax, factor in zip(figure.axes, (1, 0.5), strict=True):
        line = ax.lines[0]
        np.testing.assert_allclose(line.get_xdata(), [0, 1 / 3, 2 / 3, 1])
        np.testing.assert_allclose(line.get_ydata(), factor * np.array([1, 3, 5, 6]))
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert band.max() == pytest.approx(factor * 6 * 1.196)
        assert band.min() == pytest.approx(factor * 1 * 0.804)
        assert ax.get_yscale() == "log"
    assert len(relstab.plot_layers(table(), layers="all").axes[0].lines[0].get_xdata()) == 6
    linear = table().assign(kind="Linear")  # without an activation, all rows
    assert len(relstab.plot_layers(linear).axes[0].lines[0].get_xdata()) == 6


def test_several_networks_and_their_shuffled_selves_share_colours():
    figure = relstab.plot_layers({"a": table(), "b": table(2)}, "G", shuffled={"b": table(3)})
    a, b, shuffled = figure.axes[0].lines
    assert [a.get_linestyle(), b.get_linestyle(), shuffled.get_linestyle()] == ["-", "-", "--"]
    assert b.get_color() == shuffled.get_color() != a.get_color()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b", "b, shuffled"]
    of_a_run = pd.concat([table().assign(shuffle="none"), table(2).assign(shuffle="0"), table(3).assign(shuffle="1")])
    assert [line.get_linestyle() for line in relstab.plot_layers(of_a_run, "D").axes[0].lines] == ["-", "--", "--"]


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match="expected the rows of one network"):
        relstab.plot_layers(pd.concat([table(), table()]))
    with pytest.raises(ValueError, match="expected a column 'Q'"):
        relstab.plot_layers(table(), what=("Q",))
    with pytest.raises(ValueError, match="expected a table, or tables by name, got none"):
        relstab.plot_layers({})
    with pytest.raises(ValueError, match=r"expected tables of relstab\.measure_sensitivity by name, got int for 'a'"):
        relstab.plot_layers({"a": 3})
    with pytest.raises(ValueError, match="expected layers to be 'paper' or 'all', got 'some'"):
        relstab.plot_layers(table(), layers="some")


def test_importing_figures_leaves_the_backend_of_a_notebook_alone():
    code = "import relstab.figures.style, matplotlib; print(matplotlib.rcParams['backend'])"
    environment = {**os.environ, "MPLBACKEND": "svg"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip().lower() == "svg"
