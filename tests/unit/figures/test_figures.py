import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from relstab.architectures import ARCHITECTURES
from relstab.config import Config
from relstab.figures import (
    FIGURES,
    authors,
    deformations,
    displacements,
    error_scatter,
    filter_spectra,
    initialization,
    layer_sensitivities,
    learning_curves,
    over_training,
    relative_sensitivity,
    shuffled_layers,
    training_sizes,
)
from relstab.figures.note import figure_note
from relstab.figures.style import log_axis, mark, noise_labels, save_figure, spread_out, style, wrapped
from relstab.files.hdf5 import write_hdf5
from relstab.files.probes import read_images
from relstab.tables.networks import correlation_table

from helpers import synthetic


@pytest.fixture(scope="module")
def tables():
    networks, sensitivity, spectrum = synthetic(networks=3, noise=(0.0, 3.0))
    return networks, sensitivity, spectrum, correlation_table(networks, sensitivity, resamples=100)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    probe = {name: rng.normal(size=(1, 8, 8)).astype(np.float32) for name in ("images", "deformed", "noisy")}
    return probe, {noise: rng.normal(size=(1, 8, 8)).astype(np.float32) for noise in (0.0, 3.0)}


def drawn(name, tables, samples):
    networks, sensitivity, spectrum, correlation = tables
    with style(8):
        return {
            "fig01": lambda: relative_sensitivity.draw(networks, sensitivity, correlation, *samples),
            "deformations": lambda: deformations.draw(samples[0], displacement=2.0, cutoff=2),
            "initialization": lambda: initialization.draw(networks, sensitivity),
            "fig03": lambda: shuffled_layers.draw(networks, sensitivity),
            "fig04": lambda: filter_spectra.draw(networks, spectrum),
            "fig10": lambda: error_scatter.draw(networks, sensitivity, correlation),
            "fig11": lambda: layer_sensitivities.draw(networks, sensitivity),
            "fig12": lambda: filter_spectra.draw_all(networks, spectrum, skips=False),
            "fig13": lambda: filter_spectra.draw_all(networks, spectrum, skips=True),
            "fig14": lambda: filter_spectra.draw_pretrained(spectrum),
            "imagenet_shuffled_layers": lambda: shuffled_layers.draw_pretrained(sensitivity),
            "learning_curves": lambda: learning_curves.draw(curves(networks), networks),
            "over_training": lambda: over_training.draw(networks, followed(sensitivity)),
            "displacements": lambda: displacements.draw(swept()),
            "training_sizes": lambda: training_sizes.draw(*of_sizes(networks, sensitivity)),
        }[name]()


NAMES = [
    "fig01", "fig03", "fig04", "fig10", "fig11", "fig12", "fig13", "fig14", "imagenet_shuffled_layers", "over_training",
    "displacements", "training_sizes",
    "learning_curves",
]  # fmt: skip


def curves(networks):
    """Three epochs of each network, whose error and loss fall by half with each."""
    networks = networks.drop(columns="test_images")
    epochs = [networks.assign(epoch=epoch, test_error=0.8 / 2**epoch, train_loss=2.0 / 2**epoch) for epoch in (1, 2, 3)]
    return pd.concat(epochs, ignore_index=True)


def of_architectures(table, names):
    """The same rows for each of these architectures."""
    return pd.concat([table.assign(architecture=name) for name in names], ignore_index=True)


def followed(sensitivity):
    """D, G and R over training: at initialization, after the third and after the tenth epoch, at which D and G are halved."""
    plain = sensitivity[sensitivity["shuffle"] == "none"]
    parts = []
    for epoch, state, scale in ((0, "init", 1), (3, "trained", 1), (10, "trained", 0.5)):
        rows = plain[plain["state"] == state].drop(columns=["state", "shuffle"])
        scores = {"epoch": epoch, "test_error": 1 / epoch if epoch else np.nan, "train_loss": 1.0}
        parts.append(rows.assign(**scores, D=scale * rows["D"], G=scale * rows["G"]))
    return pd.concat(parts, ignore_index=True)


def test_figure_1_shows_error_against_r_on_logarithmic_axes(tables, samples):
    figure = drawn("fig01", tables, samples)
    centre = next(ax for ax in figure.axes if ax.get_xlabel().startswith("relative sensitivity"))
    assert centre.get_xscale() == centre.get_yscale() == "log"
    (line,) = [line for line in centre.get_lines() if len(line.get_xdata()) == 3]
    networks = tables[0].query("noise == 0")
    assert sorted(line.get_ydata()) == pytest.approx(sorted(networks["test_error"]))
    np.testing.assert_allclose(
        np.asarray(line.get_ydata(), float), 0.2 * np.sqrt(np.asarray(line.get_xdata(), float)), rtol=1e-10
    )
    # Three versions of a sample, and one sample a noise level.
    assert sum(bool(ax.images) for ax in figure.axes) == 3 + 2
    right = next(ax for ax in figure.axes if "noise" in ax.get_xlabel())
    assert [label.get_text() for label in right.get_xticklabels()] == ["0", "3"]


def test_figure_3_has_full_and_dashed_lines_of_the_layers_of_the_paper(tables, samples):
    (ax,) = drawn("fig03", tables, samples).axes
    lines = [line for line in ax.get_lines() if len(line.get_xdata())]
    assert sorted(line.get_linestyle() for line in lines) == ["-", "-", "--", "--"]
    for line in lines:
        assert list(line.get_xdata()) == [0, 1, 2, 3]
    trained = next(line for line in lines if line.get_color() == "k" and line.get_linestyle() == "-")
    rows = tables[1].query("noise == 0 and state == 'trained' and shuffle == 'none' and layer == 'a1'")
    assert trained.get_ydata()[1] == pytest.approx(rows["R"].mean())


def test_figure_4_shows_the_growth_of_each_mode(tables, samples):
    figure = drawn("fig04", tables, samples)
    below = next(ax for ax in figure.axes if ax.get_xlabel() == "mode $l$")
    ratio = next(line for line in below.get_lines() if len(line.get_xdata()) == 2 and line.get_color() != "k")
    assert ratio.get_ydata()[0] == pytest.approx(2, rel=0.3)
    assert ratio.get_ydata()[1] == pytest.approx(1, rel=0.3)


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_six_of_many_architectures_are_shown_and_the_others_have_figures_of_their_own(tables):
    many = {name: entry for name, entry in ARCHITECTURES.items() if not name.endswith("_wide")}
    networks, sensitivity, spectrum = (of_architectures(table, list(many)) for table in tables[:3])
    assert spread_out(list("abc")) == list("abc")
    assert spread_out(list("abcdefghijk")) == list("acegik")
    six = ["FC-2", "LeNet", "VGG13", "VGG13bn", "ResNet18", "EfficientNetB0"]
    for module, second in ((shuffled_layers, sensitivity), (layer_sensitivities, sensitivity), (filter_spectra, spectrum)):
        figure = module.draw(networks, second)
        assert titles(figure) == six
        plt.close(figure)
    shown = []
    for skips, rows in ((False, 3), (True, 1)):
        figure = filter_spectra.draw_all(networks, spectrum, skips=skips)
        shown += titles(figure)
        assert figure.get_size_inches()[1] == pytest.approx(0.2 + 3.7 * rows)
        plt.close(figure)
    assert shown == [entry.label for entry in sorted(many.values(), key=lambda entry: entry.skips)]


@pytest.mark.parametrize(("panels", "grid"), [(0, (1, 1)), (1, (1, 1)), (6, (1, 6)), (7, (2, 4)), (10, (2, 5)), (13, (3, 5))])
def test_panels_are_wrapped_evenly(panels, grid):
    assert wrapped(panels) == grid


def test_modes_of_large_filters_have_a_logarithmic_axis(tables):
    small = tables[2].query("noise == 0 and seed == 0")
    large = small[small["mode"] == 1]
    large = pd.concat([large.assign(mode=mode, index=2, depth=1.0) for mode in range(1, 122)])
    both = pd.concat([small.assign(depth=0.5), large])
    for spectrum, scale, last in ((small, "linear", 2), (both, "log", 121)):
        figure = filter_spectra.draw_pretrained(spectrum.assign(architecture="resnet18"))
        below = next(ax for ax in figure.axes if ax.get_xlabel() == "mode $l$")
        assert below.get_xscale() == scale
        assert max(line.get_xdata()[-1] for line in below.get_lines() if line.get_color() != "k") == last
        assert titles(figure) == ["resnet18"]  # as torchvision calls it
        plt.close(figure)


def test_figure_10_has_a_panel_for_each_noise_level_and_sensitivity(tables, samples):
    figure = drawn("fig10", tables, samples)
    assert len(figure.axes) == 6
    assert figure.axes[2].get_title().startswith(r"$\rho(\log\epsilon, \log R_f) = 1.00$")
    assert all(ax.get_xscale() == ax.get_yscale() == "log" for ax in figure.axes)


def test_errors_have_the_bar_of_their_binomial_distribution(tables, samples):
    """Of 1,000 test images eps is known to sqrt(eps (1 - eps) / 1000)."""
    outputs = tables[0].query("noise == 0")
    (bars,) = (box for box in drawn("fig01", tables, samples).axes[3].containers)
    _, _, (horizontal, vertical) = bars
    ends = np.array([segment[:, 1] for segment in vertical.get_segments()])
    error = outputs["test_error"].to_numpy()
    spread = np.sqrt(error * (1 - error) / 1000)
    np.testing.assert_allclose(ends, np.stack([error - spread, error + spread], 1))
    assert len(horizontal.get_segments()) == 3


def test_noise_levels_are_compared_by_their_twelve_digits_and_labels_tell_them_apart(tables, samples):
    """10/3 is 3.33333333333 in the names of files; the figure finds its networks, and labels of close levels differ."""
    networks, sensitivity, spectrum, correlation = (
        table[table["noise"] == 0].assign(noise=3.33333333333) if "noise" in table else table for table in tables
    )
    probe, noisy = samples
    figure = drawn("fig01", (networks, sensitivity, spectrum, correlation), (probe, {10 / 3: noisy[0.0]}))
    assert not any("no network learned" in text.get_text() for ax in figure.axes for text in ax.texts)
    assert noise_labels([0.0, 0.01, 10.0]) == ["0", "0.01", "10"]
    assert noise_labels([10.0, 10.0000001]) == ["10", "10.0000001"]


def test_figure_11_shows_d_above_and_g_below(tables, samples):
    above, below = drawn("fig11", tables, samples).axes
    assert above.get_ylabel() == "$D_k$"
    assert below.get_ylabel() == "$G_k$"
    trained = next(line for line in below.get_lines() if line.get_color() == "k" and len(line.get_xdata()))
    rows = tables[1].query("noise == 0 and state == 'trained' and shuffle == 'none' and layer == 'output'")
    assert trained.get_ydata()[-1] == pytest.approx(rows["G"].mean())


def test_sensitivities_over_training_are_those_of_the_epochs(tables, samples):
    figure = drawn("over_training", tables, samples)
    lowest = tables[1][tables[1]["noise"] == 0]
    assert len(figure.axes) == 4 * lowest["architecture"].nunique()
    outputs = lowest.query("layer == 'output' and shuffle == 'none' and architecture == architecture.iloc[0]")
    means = outputs.groupby("state")["D"].mean()
    panel = next(ax for ax in figure.axes if ax.get_ylabel() == "$D$")
    (line,) = [line for line in panel.get_lines() if len(line.get_xdata()) == 3 and np.array_equal(line.get_color(), "k")]
    assert list(line.get_xdata()) == [0, 3, 10]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [means["init"], means["trained"], means["trained"] / 2])
    errors = next(ax for ax in figure.axes if ax.get_ylabel().startswith("test error"))
    (line,) = [line for line in errors.get_lines() if len(line.get_xdata())]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [1 / 3, 1 / 10])
    plt.close(figure)


def of_sizes(*tables):
    """The same rows at 64 and at 4,000 training images, of MNIST."""
    return [pd.concat([table.assign(training_images=size, dataset="mnist5k") for size in (64, 4000)]) for table in tables]


def swept():
    """Of the output D = delta / 10 and G = delta / 5, of one network twice, of one half of it; of the input delta^2 / 100."""
    rows = []
    for seed, scale in enumerate((0.5, 2)):
        keys = {"dataset": "cifar10", "architecture": "efficientnet_b0", "noise": 0.0, "seed": seed}
        for state in ("init", "trained"):
            for cutoff, deltas in ((3, (0.5, 1, 2)), (4, (1,))):
                for delta in deltas:
                    pair = {**keys, "state": state, "displacement": delta, "cutoff": cutoff}
                    rows.append(pair | {"layer": "input", "D": delta**2 / 100, "G": delta**2 / 100, "R": 1.0})
                    rows.append(pair | {"layer": "output", "D": scale * delta / 10, "G": scale * delta / 5, "R": 0.5})
    return pd.DataFrame(rows)


def test_error_and_r_against_the_training_set_are_beside_the_authors(tables, samples):
    left, right = drawn("training_sizes", tables, samples).axes
    outputs = tables[1].query("noise == 0 and state == 'trained' and shuffle == 'none' and layer == 'output'")
    expected = {left: tables[0].query("noise == 0")["test_error"], right: outputs["R"]}
    theirs = {left: (0.2611, 0.0037), right: (2.0393, 0.0221)}  # of MNIST, at 64 and 50,000 images
    for ax, values in expected.items():
        own = next(line for line in ax.get_lines() if list(line.get_xdata()) == [64, 4000])
        np.testing.assert_allclose(np.asarray(own.get_ydata(), float), np.exp(np.log(values).mean()))
        curves = [line for line in ax.get_lines() if str(line.get_label()).startswith("authors")]
        assert [(line.get_xdata()[0], line.get_xdata()[-1]) for line in curves] == [(64, 50000)]
        assert (curves[0].get_ydata()[0], curves[0].get_ydata()[-1]) == theirs[ax]
    _, labels = right.get_legend_handles_labels()
    assert labels == ["authors, ResNet, MNIST, $c = 3$", "LeNet"]


def test_a_sweep_has_a_row_per_cutoff_beside_the_authors(tables, samples):
    axes = np.reshape(drawn("displacements", tables, samples).axes, (2, 3))
    for ax, slope in zip(axes[0], (0.1, 0.2, None), strict=True):
        own = [line for line in ax.get_lines() if list(line.get_xdata()) == [0.5, 1, 2]]
        assert [line.get_linestyle() for line in own] == ["-", "--", ":"][: 3 if slope == 0.1 else 2]
        expected = [0.5] * 3 if slope is None else slope * np.array([0.5, 1, 2])
        np.testing.assert_allclose(np.asarray(own[0].get_ydata(), float), expected)
        assert sum(len(line.get_xdata()) == 30 for line in ax.get_lines()) == (3 if slope == 0.1 else 2)
    assert axes[1, 0].get_ylabel() == "$c = 4$"  # which the authors did not measure
    assert not any(len(line.get_xdata()) == 30 for ax in axes[1] for line in ax.get_lines())


def test_intervals_of_geometric_means_are_students():
    table = pd.DataFrame({"key": [1, 1, 1, 2], "R": [1.0, np.e, np.e**2, 3.0]})
    means = authors.geometric_means(table, ["key"], ["R"], 0.95).set_index("key")
    # t of 2 degrees of freedom at 97.5% is 4.302653; the deviation is 1.
    np.testing.assert_allclose(
        np.log(means.loc[1, ["R_low", "R", "R_high"]].astype(float)), 1 + np.array([-1, 0, 1]) * 2.484138, rtol=1e-6
    )
    assert means.loc[2, "R"] == pytest.approx(3)
    assert np.isnan(means.loc[2, "R_low"])
    # Pooled with two networks of deviation sqrt(2): s^2 = (2 * 1 + 1 * 2) / 3, and t of 3 degrees of freedom is 3.182446.
    table = pd.concat([table, pd.DataFrame({"key": [3, 3], "R": [1.0, np.e**2]})])
    pooled = authors.geometric_means(table, ["key"], ["R"], 0.95, pooled=True).set_index("key")
    half = 3.182446 * (4 / 3) ** 0.5 / np.array([3, 1, 2]) ** 0.5
    np.testing.assert_allclose(np.log(pooled["R_high"] / pooled["R"]).astype(float), half, rtol=1e-6)
    np.testing.assert_allclose(pooled["R"].loc[[1, 2]], means["R"])


def test_the_authors_displacements_follow_from_their_temperatures():
    for table in (authors.training_set_sizes(), authors.efficientnet()):
        delta = np.sqrt(np.pi * table["temperature"] * np.log(table["cutoff"])) / 2
        np.testing.assert_allclose(table["displacement"], delta, rtol=2e-4)
    trained = authors.efficientnet().query("state == 'trained'")
    assert set(trained["cutoff"]) == {3, 5, 15}
    np.testing.assert_allclose(trained["R"], trained["D"] / trained["G"], rtol=0.02)


def test_learning_curves_are_means_over_seeds_by_noise_level(tables, samples):
    (ax,) = drawn("learning_curves", tables, samples).axes
    full = [line for line in ax.get_lines() if line.get_linestyle() == "-"]
    assert len(full) == 2
    for line in full:
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [0.4, 0.2, 0.1])
    assert ax.get_yscale() == "log"


def test_a_network_without_errors_stays_in_the_mean_of_its_learning_curve(tables):
    networks = tables[0].query("noise == 0")
    history = curves(networks)
    history.loc[(history["epoch"] == 3) & (history["seed"] > 0), "test_error"] = 0.0
    (ax,) = learning_curves.draw(history, networks).axes
    # Of three networks on 1,000 images, two make no error in the end.
    np.testing.assert_allclose(np.asarray(ax.get_lines()[0].get_ydata(), float), [0.4, 0.2, (0.1 + 2 * 0.0005) / 3])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_same_tables_give_the_same_files(name, tables, samples, tmp_path):
    digests = []
    for attempt in ("a", "b"):
        paths = [tmp_path / f"{attempt}.{suffix}" for suffix in (["pdf", "png"] if name == NAMES[0] else ["pdf"])]
        with style(8):
            save_figure(drawn(name, tables, samples), paths, 60)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_which_nothing_learned_still_has_its_figures(name, tables, samples, tmp_path):
    networks, sensitivity, spectrum, correlation = tables
    failed = networks.assign(learned=False)
    correlation = correlation.assign(rho=np.nan, low=np.nan, high=np.nan, networks=0)
    figure = drawn(name, (failed, sensitivity, spectrum, correlation), samples)
    with style(8):
        save_figure(figure, [tmp_path / "empty.png"], 50)
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_points_below_the_line_are_networks_whose_sensitivity_fell(tables, samples):
    figure = drawn("initialization", tables, samples)
    outputs = tables[1].query("noise == 0 and shuffle == 'none' and layer == 'output'").set_index(["state", "seed"])
    for ax, name in zip(figure.axes, ("D", "G", "R"), strict=True):
        (points,) = [line for line in ax.get_lines() if line.get_marker() != "None" and len(line.get_xdata()) == 3]
        np.testing.assert_allclose(np.sort(np.asarray(points.get_xdata(), float)), np.sort(outputs.loc["init", name]))
        np.testing.assert_allclose(np.sort(np.asarray(points.get_ydata(), float)), np.sort(outputs.loc["trained", name]))


def test_arrows_are_the_displacements_of_a_field_that_does_not_fold(samples):
    """On 8 pixels the largest displacement is n / (pi c): 1.27 pixels for c = 2, less than the 2 that are asked for."""
    figure = deformations.draw(samples[0], displacement=2.0, cutoff=2)
    fields = [ax for ax in figure.axes if "delta" in ax.get_title()]
    assert [ax.get_title() for ax in fields] == [rf"$c = {c}$, $\delta = {8 / (np.pi * c):.2g}$ pixels" for c in (2, 4, 6)]
    for ax in fields:
        (arrows,) = (item for item in ax.collections if hasattr(item, "U"))
        assert arrows.scale == 1  # to scale
        columns, rows = arrows.X.reshape(8, 8).astype(int), arrows.Y.reshape(8, 8).astype(int)
        assert np.abs(arrows.U).max() > 0.1
        border = (columns == 0) | (rows == 0) | (columns == 7) | (rows == 7)
        np.testing.assert_allclose(arrows.U.reshape(8, 8)[border], 0, atol=1e-6)  # sines vanish at the border
    colour = {"images": samples[0]["images"].repeat(3, axis=0)}
    figure = deformations.draw(colour, displacement=0.5, cutoff=2)
    assert {ax.images[0].get_array().shape for ax in figure.axes if ax.images} == {(8, 8, 3)}
    assert next(ax.get_title() for ax in figure.axes if "delta" in ax.get_title()) == r"$c = 2$, $\delta = 0.5$ pixels"


def test_labels_of_a_short_axis_do_not_run_together():
    with style(8):
        figure, axes = plt.subplots(1, 3, figsize=(7, 2))
        for ax, ends in zip(axes, ([0.031, 0.043], [1.02, 9.4], [0.5, 1.4]), strict=True):
            ax.plot(ends, ends)
            log_axis(ax.xaxis)
            log_axis(ax.yaxis)
        figure.canvas.draw()
        for ax in axes:
            for axis, side in ((ax.xaxis, 0), (ax.yaxis, 1)):
                low, high = axis.get_view_interval()
                labels = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                boxes = [label.get_window_extent() for label in labels]
                assert len(boxes) >= 2
                for one, other in itertools.pairwise(boxes):
                    assert one.max[side] < other.min[side]
    plt.close(figure)


def test_a_note_is_below_the_figure_and_the_legend(tmp_path):
    figure, ax = plt.subplots(layout="constrained")
    ax.plot([1, 2], color="k")
    figure.legend(handles=[Line2D([], [], color="r", label="line")], loc="outside lower center")
    save_figure(figure, [tmp_path / "a.png"], 50, "digits, P = 60 probes")
    plain, ax = plt.subplots(layout="constrained")
    save_figure(plain, [tmp_path / "b.png"], 50)
    noted, bare = plt.imread(tmp_path / "a.png"), plt.imread(tmp_path / "b.png")
    assert noted.shape[0] == bare.shape[0] + 11  # 0.22 inches
    red = np.flatnonzero((noted[..., 0] - noted[..., 1] > 0.5).any(axis=1))  # the line in the legend
    assert red.size
    assert red.max() < bare.shape[0]
    assert (noted[bare.shape[0] :, :, 0] < 0.8).any()  # the note


def test_notes_say_data_set_probes_and_seeds():
    config = Config(data={"name": "mnist5k", "train_images": 500}, seeds=2, probes={"images": 60}, noise=[0.0])
    notes = {name: figure_note(entry, config) for name, entry in FIGURES.items()}
    assert notes["fig10_error_scatter"] == "mnist5k, 500 training images, P = 60 probes, 2 seeds"
    # Where the size of the training set is an axis, most figures show the largest alone.
    several = Config(data={"name": "mnist5k", "train_images": [100, 500]}, seeds=2)
    assert figure_note(FIGURES["learning_curves"], several) == "mnist5k, 500 training images, 2 seeds"
    assert figure_note(FIGURES["training_sizes"], several).startswith("mnist5k, 100 to 500 training images, ")
    # A figure of an earlier config may have nothing left in this one.
    bare = Config(scale_detection={"enabled": False}, data={"name": "cifar10"}, seeds=1)
    assert figure_note(FIGURES["fig08_deep_scale_detection"], bare).endswith("probes")
    assert figure_note(FIGURES["learning_curves"], bare) == "cifar10, 1 seed"
    # Filters and learning curves have no probes.
    assert notes["fig04_filter_spectra"] == notes["learning_curves"] == "mnist5k, 500 training images, 2 seeds"
    assert notes["deformations"] == "mnist5k, one of the probes"
    assert notes["fig02_pooling"] == notes["fig05_scale_detection_samples"] == ""
    assert notes["fig07_pooling_scaling"].startswith("rings with two lit sites, P = ")
    assert notes["fig08_deep_scale_detection"].startswith("images with two lit pixels, ")
    assert notes["fig14_filter_spectra_imagenet"] == "imagenet"


def test_a_sample_that_is_not_there_names_the_key(tmp_path):
    with write_hdf5(tmp_path / "probes.h5", {}) as file:
        for name in ("images", "deformed", "noisy"):
            file[name] = np.zeros((4, 1, 8, 8), np.float32)
        file["positions"] = np.arange(4)
    assert read_images(tmp_path / "probes.h5", {0.0: tmp_path / "probes.h5"}, 3)["probe"]["noisy"].shape == (1, 8, 8)
    with pytest.raises(
        ValueError, match=r"expected an example from 0 to 3 for .*probes.h5, got 4 \(config.yaml: figures.example\)"
    ):
        read_images(tmp_path / "probes.h5", {}, 4)


@pytest.mark.parametrize("limits", [(0.011, 0.018), (0.011, 0.05), (0.03, 2.0), (1e-4, 10)])
def test_logarithmic_axes_have_a_few_plain_numbers(limits):
    figure, ax = plt.subplots()
    ax.plot([1, 2], limits)
    ax.set(yscale="log")
    log_axis(ax.yaxis)
    figure.canvas.draw()
    low, high = ax.get_ylim()
    labels = [label.get_text() for tick in ax.yaxis.get_major_ticks() if low <= tick.get_loc() <= high for label in [tick.label1]]
    assert 3 <= len(labels) <= 10
    assert all(float(label) > 0 for label in labels)
    plt.close(figure)


def test_architectures_can_be_told_apart_in_grey():
    looks = [mark(name) for name in ARCHITECTURES]
    assert len({look["marker"] for look in looks}) == len(looks)
    lightness = sorted(float(np.dot(look["color"], [0.299, 0.587, 0.114])) for look in looks)
    assert min(pd.Series(lightness).diff().dropna()) > 0.02
    # Neighbours in the registry are far from each other.
    in_order = np.array([np.dot(look["color"], [0.299, 0.587, 0.114]) for look in looks])
    assert np.abs(np.diff(in_order)).min() > 0.2
