"""Figures of the scale-detection tasks and of pooling, drawn from tables with known exponents and ratios."""

import hashlib
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from relstab.architectures import ARCHITECTURES
from relstab.figures import (
    deep_scale_detection,
    deep_scale_detection_layers,
    pooling,
    pooling_scaling,
    relu_tanh,
    scale_detection_errors,
    scale_detection_samples,
)
from relstab.figures.pooling_illustration import LAYERS, channel_maps, relative_change, spatial_maps
from relstab.figures.style import save_figure, style
from relstab.scale_detection.homogeneous import receptive_fields
from relstab.tables.networks import correlation_table
from relstab.tables.noise_ratio import noise_ratio

from helpers import synthetic

NAMES = ["fig02", "fig05", "fig06", "fig07", "fig08", "fig09", "relu_tanh"]
SEEDS = 5
# By stride: F and K of the simple CNNs here.
DESIGNS = {1: (5, 6), 2: (2, 5)}
FALL = {1: -2.0, 2: -1.0}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def ensemble(experiment, stride=2, rule="distance", activation="relu", output=1.0, error=0.01, least=0.0, states=None):
    """Networks whose D_k and G_k, averaged over channels, are powers of A_k when decayed; D_k falls half as fast before that.

    Seeds are off by factors whose geometric mean is 1; theory_D and theory_G are 10 times what is measured when decayed.
    """
    filter_size, depth = DESIGNS[stride]
    fields = [1.0, *receptive_fields(filter_size, stride, depth), math.nan]
    rows = []
    for state in states or ("init", "trained", "decayed"):
        for seed in range(SEEDS):
            off = math.exp(0.1 * (seed - (SEEDS - 1) / 2))
            for noise in ("gaussian", "rectified"):
                for k, field in enumerate(fields):
                    for representation in ("whole", "average") if 1 <= k <= depth else ("whole",):
                        law = {"D": field ** (FALL[stride] * (1 if state == "decayed" else 0.5)), "G": field}
                        closed = {"D": 10 * field ** FALL[stride], "G": 10 * field}
                        if k in (0, depth + 1):
                            law = {"D": 0.1, "G": output}
                        rows.append(
                            {"experiment": experiment, "activation": activation, "rule": rule, "size": 64, "scale": 16, "k": k}
                            | {"filter_size": filter_size, "stride": stride, "depth": depth, "seed": seed, "state": state}
                            | {"test_error": error, "least_error": least, "noise": noise, "representation": representation}
                            | {name: value * off for name, value in law.items()}
                            | {f"theory_{name}": value for name, value in closed.items()}
                            | {"receptive_field": field, "layer": "some"}
                        )
    return pd.DataFrame(rows)


def homogeneous(name, stride):
    filter_size, depth = DESIGNS[stride]
    fields = receptive_fields(filter_size, stride, depth)
    laws = {"D": fields ** FALL[stride], "G": fields}
    return pd.DataFrame(
        {"experiment": name, "activation": "relu", "state": "homogeneous", "seed": 0, "noise": "rectified"}
        | {"representation": "whole", "size": 256, "filter_size": filter_size, "stride": stride, "depth": depth}
        | {"k": range(1, depth + 1), "receptive_field": fields, **laws}
        | {f"theory_{name}": values for name, values in laws.items()}
    )


def exponents(layers):
    """A row for each ensemble, state, representation and sensitivity, of layers 2 to K - 1, with exponents to be found."""
    rows = []
    for keys, part in layers.groupby(["experiment", "activation", "state", "noise", "representation"]):
        first = part.iloc[0]
        for name in ("D", "G"):
            predicted = FALL[int(first["stride"])] if name == "D" else 1.0
            fitted = predicted - 0.04 if keys[2] in ("decayed", "homogeneous") else 0.33
            rows.append(
                dict(zip(("experiment", "activation", "state", "noise", "representation"), keys, strict=True))
                | {"sensitivity": name, "first_layer": 2, "last_layer": first["depth"] - 1, "predicted": predicted}
                | {"finite_size": predicted + 0.1, "exponent": fitted, "low": fitted - 0.06, "high": fitted + 0.06}
            )
    return pd.DataFrame(rows)


def simple_layers():
    parts = [
        ensemble("one"),
        ensemble("one", activation="tanh", output=0.25),
        ensemble("one_more"),
        ensemble("smooth", stride=1),
        ensemble("blocks", rule="block"),
        ensemble("hopeless", stride=1, rule="block", error=0.23, least=0.21, states=("init", "trained")),
        homogeneous("homogeneous_stride1", 1),
        homogeneous("homogeneous_strided", 2),
    ]
    return pd.concat(parts, ignore_index=True)


def deep_tables(architectures=("lenet", "vgg11", "resnet18")):
    networks, sensitivity, _ = synthetic(networks=3)
    return tuple(
        pd.concat([table.assign(architecture=name) for name in architectures], ignore_index=True)
        for table in (networks, sensitivity)
    )


def pair_samples():
    """Two samples of each label; the first site moves to the right or down, the second not at all."""
    rows = []
    for task, dimension, size, scale in (("Task 1", 1, 16, 4), ("Task 2", 1, 16, 4), ("image, block", 2, 8, 4)):
        for label in (1, -1):
            for sample in range(2):
                for lit, place in enumerate((1 + sample, 3 if label == 1 else 6)):
                    row = 0 if dimension == 1 else place
                    rule = "distance" if task == "Task 1" else "block"
                    keys = [task, rule, dimension, size, scale, label, sample, lit]
                    rows.append([*keys, row, place, row + (dimension == 2 and lit == 0), place + (dimension == 1 and lit == 0)])
    what, where = ["task", "rule", "dimension", "size", "scale", "label", "sample", "lit"], ["row", "column"]
    return pd.DataFrame(rows, columns=[*what, *where, *(f"moved_{axis}" for axis in where)])


@pytest.fixture(scope="module")
def tables():
    layers, (networks, sensitivity) = simple_layers(), deep_tables()
    return {
        "samples": pair_samples(),
        "layers": layers,
        "exponents": exponents(layers),
        "networks": networks,
        "sensitivity": sensitivity,
        "correlation": correlation_table(networks, sensitivity, resamples=100),
    }


def drawn(name, tables):
    modules = {
        "fig02": (pooling, []),
        "fig05": (scale_detection_samples, ["samples"]),
        "fig06": (scale_detection_errors, ["networks", "sensitivity", "correlation"]),
        "fig07": (pooling_scaling, ["layers", "exponents"]),
        "fig08": (deep_scale_detection, ["networks", "sensitivity"]),
        "fig09": (deep_scale_detection_layers, ["networks", "sensitivity"]),
        "relu_tanh": (relu_tanh, ["layers"]),
    }
    module, wanted = modules[name]
    with style(8):
        return module.draw(*(tables[table] for table in wanted))


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def points(ax, marker, filled=True):
    """Data of the marks of one shape, filled or open, in the order of their abscissae, and how opaque they are."""
    found = []
    for line in ax.get_lines():
        if line.get_marker() == marker and (line.get_markerfacecolor() != "none") == filled:
            found += [(*place, line.get_alpha()) for place in zip(line.get_xdata(), line.get_ydata(), strict=True)]
    return np.array(sorted(found))


def numbers(values):
    return np.asarray(values, float)


# Figure 2


def test_pooling_makes_a_move_matter_less_and_high_frequencies_do_not():
    maps = spatial_maps()
    pooled, kept = (
        [relative_change(*(maps[f"{name}, k = {k}", version] for version in ("x", "moved"))) for k in LAYERS]
        for name in ("homogeneous", "high frequency")
    )
    assert pooled[0] == 1  # two different pixels have nothing in common
    assert pooled[1] == pytest.approx(1 / 3)  # 3 of 9 sites of either window are not in the other
    assert all(before > 1.3 * after for before, after in itertools.pairwise(pooled))
    assert kept == pytest.approx([1] * len(LAYERS))


def test_the_sum_of_oriented_channels_does_not_change_when_the_edge_is_rotated():
    mean = {key: values.mean() for key, values in channel_maps().items()}
    for name in ("channel 1", "channel 2"):
        assert relative_change(mean[name, "x"], mean[name, "moved"]) > 0.3
    assert mean["channel 1", "x"] == pytest.approx(mean["channel 2", "moved"], rel=1e-12)
    assert mean["sum of channels", "x"] > 0
    assert relative_change(mean["sum of channels", "x"], mean["sum of channels", "moved"]) < 1e-20


def test_relative_changes_are_1_between_what_has_nothing_in_common():
    assert relative_change([1, 0], [0, 1]) == 1
    assert relative_change([1, 2], [1, 2]) == 0
    assert relative_change(3.0, 1.0) == pytest.approx(0.4)
    assert math.isnan(relative_change([0, 0], [0, 0]))


def test_figure_2_has_the_computed_numbers_beside_the_images(tables):
    figure = drawn("fig02", tables)
    # Two filters with two versions of each layer; two filters, and an image, two channels and their sum in two versions.
    assert sum(bool(ax.images) for ax in figure.axes) == 2 * (1 + 2 * len(LAYERS)) + 2 + 4 * 2
    labels = "\n".join(ax.get_xlabel() for ax in figure.axes)
    spatial, channel = spatial_maps(), channel_maps()
    changes = [relative_change(values, spatial[item, "moved"]) for (item, version), values in spatial.items() if version == "x"]
    changes.append(relative_change(channel["image", "x"], channel["image", "moved"]))
    changes += [relative_change(channel[name, "x"].mean(), channel[name, "moved"].mean()) for name in ("channel 1", "channel 2")]
    for change in changes:
        assert f"{change:.2f}$" in labels
    last = next(ax for ax in figure.axes if ax.get_title() == "$k = 4$")
    np.testing.assert_allclose(last.images[0].get_array(), spatial["homogeneous, k = 4", "x"])


# Figure 5


def test_figure_5_shows_lit_sites_and_where_they_move(tables):
    figure = drawn("fig05", tables)
    first, second, *squares = figure.axes
    for ring in (first, second):
        assert [label.get_text() for label in ring.get_yticklabels()] == ["$y = +1$", "$y = -1$"]
        heights = [image.get_extent()[2] for image in ring.images]
        assert heights == sorted(heights, reverse=True)
        strips = [image.get_array()[0] for image in ring.images]
        assert [np.flatnonzero(strip == 2).tolist() for strip in strips] == [[1, 3], [2, 3], [1, 6], [2, 6]]
        # In the second, the site moves to where the other is lit.
        assert [np.flatnonzero(strip == 1).tolist() for strip in strips] == [[2], [], [2], [3]]
        assert {line.get_marker() for line in ring.get_lines() if len(line.get_xdata()) and line.get_color() != "k"} == {">"}
    assert texts(figure) == [r"$\xi = 4$"]  # a bar for Task 1 alone
    (bar,) = [line for line in first.get_lines() if line.get_marker() == "|"]
    assert np.ptp(numbers(bar.get_xdata())) == 4
    borders = {float(line.get_xdata()[0]) for line in second.get_lines() if line.get_linestyle() == "--"}
    assert borders == {3.5, 7.5, 11.5}
    assert len(squares) == 4
    np.testing.assert_array_equal(np.argwhere(squares[0].images[0].get_array() == 2), [[1, 1], [3, 3]])
    np.testing.assert_array_equal(np.argwhere(squares[0].images[0].get_array() == 1), [[2, 1]])
    assert [line.get_linestyle() for line in squares[0].get_lines()] == ["--", "--"]


@pytest.mark.parametrize("task", ["Task 1", "image, block", "no task"])
def test_figure_5_takes_any_of_its_tasks(task, tables, tmp_path):
    samples = tables["samples"]
    figure = drawn("fig05", {"samples": samples[samples["task"] == task]})
    save_figure(figure, [tmp_path / "one.png"], 50)
    assert (texts(figure) == ["no scale-detection task"]) == (task == "no task")


# Figures 6, 8 and 9


def test_figure_6_shows_the_error_against_each_sensitivity(tables):
    figure = drawn("fig06", tables)
    assert [ax.get_xlabel() for ax in figure.axes] == ["$D_f$", "$G_f$", "$R_f$"]
    assert figure.axes[2].get_title().startswith(r"$\rho(\log\epsilon, \log R_f) = 1.00$")
    right = figure.axes[2]
    marks = [line for line in right.get_lines() if len(line.get_xdata()) == 3]
    assert len({line.get_marker() for line in marks}) == 3
    for line in marks:
        np.testing.assert_allclose(numbers(line.get_ydata()), 0.2 * np.sqrt(numbers(line.get_xdata())))
    no_intervals = {**tables, "correlation": tables["correlation"].assign(low=np.nan, high=np.nan)}
    assert drawn("fig06", no_intervals).axes[2].get_title() == r"$\rho(\log\epsilon, \log R_f) = 1.00$"
    assert drawn("fig06", {**tables, "correlation": tables["correlation"].iloc[:0]}).axes[2].get_title() == ""


def test_figure_8_has_filled_marks_trained_and_open_ones_at_initialization(tables):
    (ax,) = drawn("fig08", tables).axes
    assert ax.get_xscale() == ax.get_yscale() == "log"
    marks = [line for line in ax.get_lines() if len(line.get_xdata()) == 3]
    assert len(marks) == 6
    (guide,) = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    np.testing.assert_allclose(numbers(guide.get_ydata()), 0.2 * np.sqrt(numbers(guide.get_xdata())))
    outputs = tables["sensitivity"].query("layer == 'output' and shuffle == 'none' and architecture == 'lenet'")
    for is_open, state in ((True, "init"), (False, "trained")):
        some = [line for line in marks if (line.get_markerfacecolor() == "none") == is_open]
        assert len({line.get_marker() for line in some}) == 3
        for line in some:
            np.testing.assert_allclose(np.sort(numbers(line.get_xdata())), np.sort(outputs[outputs["state"] == state]["R"]))
            np.testing.assert_allclose(np.sort(numbers(line.get_ydata())), np.sort(tables["networks"]["test_error"].iloc[:3]))


def test_figure_9_has_a_row_for_each_sensitivity(tables):
    figure = drawn("fig09", tables)
    assert len(figure.axes) == 9
    assert [figure.axes[3 * row].get_ylabel() for row in range(3)] == ["$D_k$", "$G_k$", "$R_k$"]
    assert [ax.get_title() for ax in figure.axes[:3]] == [ARCHITECTURES[name].label for name in ("lenet", "vgg11", "resnet18")]
    lines = [line for line in figure.axes[6].get_lines() if len(line.get_xdata())]
    assert sorted(line.get_linestyle() for line in lines) == ["-", "--"]
    trained = next(line for line in lines if line.get_linestyle() == "-")
    rows = tables["sensitivity"].query(
        "state == 'trained' and shuffle == 'none' and layer == 'output' and architecture == 'lenet'"
    )
    assert list(trained.get_xdata()) == [0, 1, 2, 3]
    assert trained.get_ydata()[-1] == pytest.approx(rows["R"].mean())


def test_many_architectures_are_drawn_in_two_blocks():
    names = list(ARCHITECTURES)[3:10]
    networks, sensitivity = deep_tables(names)
    figure = drawn("fig09", {"networks": networks, "sensitivity": sensitivity})
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 3 * 7
    assert [ax.get_title() for ax in shown if ax.get_title()] == [ARCHITECTURES[name].label for name in names]


@pytest.mark.parametrize("name", ["fig06", "fig08", "fig09"])
def test_deep_networks_that_did_not_learn_are_said_to_be_missing(name, tables, tmp_path):
    correlation = tables["correlation"].assign(rho=np.nan, low=np.nan, high=np.nan)
    figure = drawn(name, {**tables, "networks": tables["networks"].assign(learned=False), "correlation": correlation})
    assert set(texts(figure)) == {"no network learned"}
    save_figure(figure, [tmp_path / "empty.png"], 50)


# Figure 7


def test_figure_7_has_a_panel_for_each_task_and_stride(tables):
    panels = drawn("fig07", tables).axes
    titles = [ax.get_title() for ax in panels]
    starts = ["Task 1, stride 1", "Task 1, stride 2", "Task 2, stride 1", "Task 2, stride 2"]
    starts += ["homogeneous filters, stride 1", "homogeneous filters, stride 2"]
    for title, start in zip(titles, starts, strict=True):
        assert title.startswith(start)
    minus = "\N{MINUS SIGN}"
    lines = titles[1].split("\n")
    assert lines[1] == f"$D_k$: {minus}1.04 [{minus}1.10, {minus}0.98] (predicted {minus}1; at this size {minus}0.90)"
    assert lines[2] == "$G_k$: 0.96 [0.90, 1.02] (predicted 1; at this size 1.10)"
    assert all(ax.get_xscale() == ax.get_yscale() == "log" for ax in panels)


@pytest.mark.parametrize(("panel", "stride"), [(0, 1), (1, 2), (3, 2)])
def test_figure_7_shows_geometric_means_against_the_receptive_field(panel, stride, tables):
    ax = drawn("fig07", tables).axes[panel]
    filter_size, depth = DESIGNS[stride]
    fields = receptive_fields(filter_size, stride, depth)
    for marker, law, before in (("o", FALL[stride], FALL[stride] / 2), ("s", 1.0, 1.0)):
        decayed, trained = points(ax, marker), points(ax, marker, filled=False)
        np.testing.assert_allclose(decayed[:, 0], fields)
        np.testing.assert_allclose(decayed[:, 1], fields**law)
        np.testing.assert_allclose(trained[:, 1], fields**before)
        # The first and the last layer are not fitted.
        assert (decayed[:, 2] == 1).tolist() == [False, *[True] * (depth - 2), False]
    guides = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    slopes = [np.diff(np.log(numbers(line.get_ydata()))) / np.diff(np.log(numbers(line.get_xdata()))) for line in guides]
    assert [float(slope[0]) for slope in slopes] == [pytest.approx(FALL[stride]), pytest.approx(1)]
    for line in guides:
        np.testing.assert_allclose(numbers(line.get_xdata()), [fields[1], fields[-2]])
    assert guides[0].get_ydata()[0] == pytest.approx(fields[1] ** FALL[stride])
    closed = [line for line in ax.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) == depth]
    assert len(closed) == 2
    np.testing.assert_allclose(numbers(closed[0].get_ydata()), 10 * fields ** FALL[stride])
    np.testing.assert_allclose(numbers(closed[1].get_ydata()), 10 * fields)


def test_error_bars_are_the_spread_over_seeds(tables):
    ax = drawn("fig07", tables).axes[1]
    spread = math.exp(np.std(0.1 * np.arange(SEEDS), ddof=1))
    bars = [segment for bar in ax.collections for segment in bar.get_segments()]
    assert len(bars) == 2 * DESIGNS[2][1]
    for (_, low), (_, high) in bars:
        assert high / low == pytest.approx(spread**2)


def test_networks_that_cannot_learn_are_said_to(tables):
    panels = drawn("fig07", tables).axes
    assert [text.get_text() for text in panels[2].texts] == [
        "cannot be learned: test error 0.23\n(over all pairs no such network is below 0.21)"
    ]
    assert panels[2].get_title().split("\n")[0].endswith("as trained")
    # There is no state after weight decay: what was trained is filled.
    assert len(points(panels[2], "o")) == DESIGNS[1][1]
    assert len(points(panels[2], "o", filled=False)) == 0
    assert not panels[0].texts
    worse = {**tables, "layers": tables["layers"].assign(test_error=0.4, least_error=0.0)}
    assert "not learned: test error 0.40" in texts(drawn("fig07", worse))


def test_the_words_of_figure_7_leave_room_for_its_panels(tables):
    """A long line in a panel once took a third of the page, and titles ran over its edge."""
    figure = drawn("fig07", tables)
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert ax.get_position().width > 0.35
        assert figure.bbox.x0 <= ax.title.get_window_extent().x0
        assert ax.title.get_window_extent().x1 <= figure.bbox.x1
        for text in ax.texts:
            assert text.get_window_extent().x1 <= ax.bbox.x1


def test_zeros_and_nan_are_not_drawn(tables):
    layers = tables["layers"].copy()
    layers.loc[layers["k"] == 3, "theory_D"] = 0
    layers.loc[layers["k"] == 4, "theory_G"] = np.nan
    layers.loc[(layers["k"] == 2) & (layers["seed"] > 0), "D"] = np.nan
    layers.loc[layers["k"] == 5, "D"] = 0
    ax = drawn("fig07", {**tables, "layers": layers}).axes[1]
    depth = DESIGNS[2][1]
    thin = [line for line in ax.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) == depth - 1]
    assert len(thin) == 2
    assert points(ax, "o")[:, 0].tolist() == [2, 4, 8, 16]
    # One network is left at k = 2, and is off from the mean.
    assert points(ax, "o")[1, 1] == pytest.approx(4**-1.0 * math.exp(-0.2))
    empty = {**tables, "layers": tables["layers"].assign(D=np.nan, G=np.nan)}
    assert set(texts(drawn("fig07", empty))) == {"nothing was measured"}


@pytest.mark.parametrize("left", [["one"], ["hopeless"], ["homogeneous_strided"], ["blocks", "homogeneous_stride1"], []])
def test_figures_of_simple_networks_survive_what_is_missing(left, tables, tmp_path):
    layers = tables["layers"][tables["layers"]["experiment"].isin(left)]
    fits = tables["exponents"][tables["exponents"]["experiment"].isin(left)]
    figure = drawn("fig07", {"layers": layers, "exponents": fits})
    assert sum(text.startswith("no such") for text in texts(figure)) == 6 - len(left)
    save_figure(figure, [tmp_path / "fig07.png"], 50)
    figure = drawn("relu_tanh", {"layers": layers})
    assert (texts(figure) == []) == (left == ["one"])
    save_figure(figure, [tmp_path / "relu_tanh.png"], 50)


def test_without_exponents_figure_7_says_that_none_were_fitted(tables):
    unknown = tables["exponents"].assign(exponent=np.nan, low=np.nan, high=np.nan, finite_size=np.nan)
    for fits in (unknown, tables["exponents"].iloc[:0]):
        figure = drawn("fig07", {**tables, "exponents": fits})
        assert all("$D_k$: no exponent fitted" in ax.get_title() for ax in figure.axes)
        # What was not fitted is pale.
        assert all(line.get_alpha() < 1 for ax in figure.axes for line in ax.get_lines() if line.get_marker() in ("o", "s"))
        assert not any(line.get_linestyle() == "--" for ax in figure.axes for line in ax.get_lines())
    few = tables["exponents"].assign(low=np.nan, high=np.nan, finite_size=np.nan)
    title = drawn("fig07", {**tables, "exponents": few}).axes[1].get_title()
    assert title.split("\n")[2] == "$G_k$: 0.96 (predicted 1)"


# ReLU and tanh


def test_ratios_of_known_factors():
    layers = pd.concat([ensemble("one", output=3.0), ensemble("one", activation="tanh", output=0.5), ensemble("two")])
    (row,) = noise_ratio(layers, resamples=500).to_dict("records")
    assert (row["experiment"], row["networks"]) == ("one", SEEDS)
    assert row["ratio"] == pytest.approx(6)
    # Both means are off by 0.1 sqrt(2) / sqrt(5) in logarithm.
    assert 1.05 < row["high"] / row["ratio"] < math.exp(3 * 0.2 / math.sqrt(SEEDS))
    assert row["low"] < 6 < row["high"]
    pd.testing.assert_frame_equal(noise_ratio(layers, resamples=500), noise_ratio(layers, resamples=500))


def test_ratios_need_networks_that_learned():
    relu, tanh = ensemble("one", output=3.0), ensemble("one", activation="tanh")
    few = pd.concat([relu, tanh[tanh["seed"] < 3]])
    (row,) = noise_ratio(few).to_dict("records")
    assert row["networks"] == 3
    assert row["ratio"] == pytest.approx(3 * math.exp(0.1))
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])
    (row,) = noise_ratio(pd.concat([relu, tanh.assign(test_error=0.4)])).to_dict("records")
    assert math.isnan(row["ratio"])
    assert row["networks"] == 0
    assert noise_ratio(relu).empty


def test_relu_and_tanh_are_drawn_with_the_ratio_of_their_outputs(tables):
    ax, decayed = drawn("relu_tanh", tables).axes
    assert ax.get_title().startswith("Task 1, stride 2\n$G_f$, ReLU / tanh: 4.00 [")
    # The layers of both are the same ones; the deepest that sees no more than 16 sites is the fourth.
    assert decayed.get_title().startswith("Task 1, stride 2, after weight decay\n$G_4$, ReLU / tanh: 1.00 [")
    lines = {line.get_linestyle(): line for line in ax.get_lines() if len(line.get_xdata())}
    depth = DESIGNS[2][1]
    for line, output in (("-", 1.0), ("--", 0.25)):
        assert list(lines[line].get_xdata()) == list(range(1, depth + 2))
        mean = np.exp(0.1 * (np.arange(SEEDS) - 2)).mean()
        assert lines[line].get_ydata()[-1] == pytest.approx(output * mean)
        assert lines[line].get_ydata()[0] == pytest.approx(2 * mean)
    assert ax.get_xticklabels()[-1].get_text() == "out"


def test_of_an_activation_that_did_not_learn_there_is_no_line(tables):
    layers = tables["layers"].copy()
    layers.loc[layers["activation"] == "tanh", "test_error"] = 0.4
    for ax, title in zip(
        drawn("relu_tanh", {"layers": layers}).axes, ("Task 1, stride 2", "Task 1, stride 2, after weight decay"), strict=True
    ):
        assert [text.get_text() for text in ax.texts] == ["no tanh network learned"]
        assert ax.get_title() == title
    assert texts(drawn("relu_tanh", {"layers": layers.assign(test_error=0.4)})) == ["no network learned"] * 2


# All of them


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_same_tables_give_the_same_files(name, tables, tmp_path):
    digests = []
    for attempt in ("a", "b"):
        paths = [tmp_path / f"{attempt}.{suffix}" for suffix in (["pdf", "png"] if name == NAMES[0] else ["pdf"])]
        with style(8):
            save_figure(drawn(name, tables), paths, 60)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]
