import math

import numpy as np
import pandas as pd
import pytest

import relstab
from relstab.paper_layers import paper_layers
from relstab.tables.claims import _verdict, claim_table
from relstab.tables.networks import (
    correlation_table,
    error_above_zero,
    of_sizes,
    output_sensitivities,
    read_tables,
)

from helpers import synthetic


def test_correlations_are_those_of_the_outputs():
    networks, sensitivity, _ = synthetic(noise=(0.0, 3.0))
    table = correlation_table(networks, sensitivity, resamples=200).set_index(["noise", "state", "sensitivity"])
    assert table.loc[(0.0, "trained", "R"), "rho"] == pytest.approx(1)
    assert table.loc[(3.0, "trained", "G"), "rho"] == pytest.approx(-1)
    row = table.loc[(0.0, "init", "R")]
    assert row["low"] < row["rho"] < row["high"]
    outputs = sensitivity.query("noise == 0 and state == 'init' and shuffle == 'none' and layer == 'output'")
    expected = relstab.log_correlation(networks.query("noise == 0")["test_error"], outputs["R"])
    assert row["rho"] == pytest.approx(expected)
    assert (table["networks"] == 12).all()


def of_two_sizes():
    """Tables of an axis of two sizes: at 64 images, the error is 0.2 sqrt(R); at 512, all errors are half and all R a quarter."""
    small, large = synthetic(), synthetic()
    large[0]["test_error"] /= 2
    large[1]["R"] /= 4
    parts = ((64, small), (512, large))
    return [pd.concat([tables[i].assign(training_images=size) for size, tables in parts], ignore_index=True) for i in range(3)]


def test_correlations_are_of_each_size_and_of_all_sizes():
    networks, sensitivity, _ = of_two_sizes()
    table = correlation_table(networks, sensitivity, resamples=100).set_index(["training_images", "state", "sensitivity"])
    assert table["networks"].groupby("training_images").unique().to_dict() == {64: [12], 512: [12], "all": [24]}
    single = correlation_table(*synthetic()[:2], resamples=100).set_index(["state", "sensitivity"])
    assert "training_images" not in single.reset_index()
    for size in (64, 512):
        np.testing.assert_allclose(table.loc[size, "rho"], single["rho"])
    assert table.loc[("all", "trained", "R"), "rho"] == pytest.approx(1)
    assert table.loc[("all", "trained", "D"), "rho"] < 0.9 < single.loc[("trained", "D"), "rho"]


def test_figures_show_the_largest_size_or_every_size():
    networks, sensitivity, _ = of_two_sizes()
    plain = synthetic()[0]
    assert of_sizes(plain, every=False) is plain
    assert of_sizes(networks, every=True) is networks
    largest = of_sizes(networks, every=False).reset_index(drop=True)
    pd.testing.assert_frame_equal(largest, plain.assign(test_error=plain["test_error"] / 2))
    correlation = correlation_table(networks, sensitivity, resamples=100)
    assert (of_sizes(correlation, every=True)["networks"] == 24).all()
    assert (of_sizes(correlation, every=False)["networks"] == 12).all()


def test_claims_are_over_the_networks_of_all_sizes():
    tables = of_two_sizes()
    claims = claim_table(*tables, resamples=100).set_index("claim")
    assert claims.loc[12, "statistic"] == pytest.approx(1)
    alone = claim_table(*synthetic(), resamples=100).set_index("claim")
    for claim in (5, 6, 7):  # of quantities that are the same at both sizes
        assert claims.loc[claim, "statistic"] == pytest.approx(alone.loc[claim, "statistic"])


def test_networks_that_did_not_learn_or_are_constant_are_left_out_and_counted():
    networks, sensitivity, _ = synthetic()
    networks.loc[0, ["test_error", "learned"]] = [0.9, False]
    sensitivity.loc[(sensitivity["seed"] == 1) & (sensitivity["layer"] == "output"), ["D", "G", "R"]] = np.nan
    table = correlation_table(networks, sensitivity, resamples=100)
    assert (table["networks"] == 10).all()
    assert table.query("state == 'trained' and sensitivity == 'R'")["rho"].iloc[0] == pytest.approx(1)


def test_an_error_of_zero_counts_as_half_a_test_image():
    networks, sensitivity, _ = synthetic()
    networks.loc[0, "test_error"] = 0.0
    assert error_above_zero(networks)[0] == 1 / 2000
    assert output_sensitivities(networks, sensitivity)["error"].min() == 1 / 2000
    assert np.isfinite(correlation_table(networks, sensitivity, resamples=100)["rho"]).all()


def test_too_few_networks_have_no_correlation():
    table = correlation_table(*synthetic(networks=2)[:2], resamples=100)
    assert table[["rho", "low", "high"]].isna().all(axis=None)
    assert (table["networks"] == 2).all()


def test_layers_of_the_paper_follow_convolutions():
    """A residual block: two branches meet in one activation; pooling, batch norm and a second activation do not count."""
    block = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "ReLU", "Conv2d", "Conv2d", "BatchNorm2d", "ReLU"]
    kinds = ["input", *block, "Flatten", "Linear", "output"]
    layers = ["input", *map(str, range(11)), "output"]
    table = pd.DataFrame({"layer": layers, "kind": kinds, "index": range(13), "depth": 0.0, "seed": 0})
    chosen = paper_layers(table, ["seed"])
    assert chosen["index"].tolist() == [0, 3, 9, 12]
    assert chosen["k"].tolist() == [0, 1, 2, 3]
    assert chosen["depth"].tolist() == [0, 1 / 3, 2 / 3, 1]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 17),
        ("resnet50", 49),
        ("vgg11", 8),
        ("vgg11_bn", 8),
        ("vgg19_bn", 16),
        ("alexnet", 7),
        ("lenet", 4),
        ("fc6", 6),
        ("efficientnet_b0", 32),
    ],
)
def test_networks_have_as_many_layers_as_their_names_say(name, count):
    """ResNet18: 17 convolutions and the read-out; VGG11 for small images: 8 and the read-out; hidden layers count as well.

    EfficientNetB0: the stem, and in each of 16 blocks the expansion (all but the first) and the depthwise convolution; their last
    convolution has no activation, and the gates of squeeze and excitation are no representations of the image.
    """
    import torch

    model = relstab.build_model(name, (1, 28, 28), 10, 0.1)
    images = torch.randn(4, 1, 28, 28)
    relstab.estimate_batch_statistics(model, images)
    table = relstab.measure_sensitivity(model, relstab.Probes(images, images + 0.1, images - 0.1), constant="nan")
    assert len(paper_layers(table.assign(seed=0), ["seed"])) == count + 2  # and the input and the output


def test_tables_survive_the_disk(tmp_path):
    networks, sensitivity, _ = synthetic(networks=3)
    networks.to_csv(tmp_path / "networks.csv", index=False)
    sensitivity.to_csv(tmp_path / "sensitivity.csv", index=False)
    again = read_tables(tmp_path / "networks.csv", tmp_path / "sensitivity.csv")
    pd.testing.assert_frame_equal(again[0], networks)
    pd.testing.assert_frame_equal(again[1], sensitivity, check_dtype=False)
    assert set(again[1]["shuffle"]) == {"none", "0", "1"}


def verdicts(*tables):
    return claim_table(*tables, resamples=300).set_index("claim")


def test_claims_are_decided_from_tables_that_were_made_to_hold():
    table = verdicts(*synthetic(noise=(0.0, 3.0)))
    assert table.loc[2, "verdict"] == "supported"  # G falls with R, and the error grows with it
    assert table.loc[4, "verdict"] == "supported"
    assert table.loc[5, "verdict"] == "supported"
    assert table.loc[6, "verdict"] == "supported"
    assert table.loc[6, "statistic"] == pytest.approx(math.log(2 / 3 / (1 / 2)), abs=0.1)
    assert table.loc[7, "verdict"] == "supported"
    assert table.loc[12, "verdict"] == "supported"
    assert table.loc[12, "statistic"] == pytest.approx(1)
    assert list(table.index) == [1, 2, 3, 4, 5, 6, 7, 12]


def test_claims_are_refused_by_tables_that_were_made_to_fail():
    networks, sensitivity, spectrum = synthetic(noise=(0.0, 3.0))
    networks["test_error"] = 0.01 / networks["test_error"]  # rises where R falls
    swapped = {"init": "trained", "trained": "init"}
    sensitivity["state"] = sensitivity["state"].replace(swapped)
    spectrum["state"] = spectrum["state"].replace(swapped)
    table = verdicts(networks, sensitivity, spectrum)
    for claim in (4, 6, 7, 12):
        assert table.loc[claim, "verdict"] == "not supported", claim
    assert table.loc[7, "statistic"] < 0


@pytest.mark.parametrize(("fall", "verdict"), [(0.0, "supported"), (0.05, "supported"), (2.0, "not supported")])
def test_claim_4_needs_networks_at_initialization_that_fall_less_than_half_as_much(fall, verdict):
    networks, sensitivity, spectrum = synthetic()
    initial = sensitivity["state"] == "init"
    sensitivity.loc[initial, "R"] = np.exp(-fall * sensitivity.loc[initial, "depth"])
    assert verdicts(networks, sensitivity, spectrum).loc[4, "verdict"] == verdict


def test_claim_3_counts_levels_at_which_nothing_learned():
    networks, sensitivity, spectrum = synthetic(noise=(0.0, 3.0, 5.0))
    networks.loc[networks["noise"] == 5.0, "learned"] = False
    row = verdicts(networks, sensitivity, spectrum).loc[3]
    assert row["verdict"] == "undecided"
    assert math.isnan(row["statistic"])


def test_without_enough_networks_claims_are_undecided():
    table = verdicts(*synthetic(networks=3))
    assert (table["verdict"] == "undecided").all()


def test_without_convolutions_or_without_anything_learned_claims_are_undecided():
    networks, sensitivity, spectrum = synthetic()
    plain = sensitivity[sensitivity["shuffle"] == "none"]
    table = verdicts(networks, plain, spectrum.iloc[:0])
    assert table.loc[[3, 4, 5, 6], "verdict"].tolist() == ["undecided"] * 4
    assert table.loc[[2, 7], "verdict"].tolist() == ["supported"] * 2
    table = verdicts(networks.assign(learned=False), sensitivity, spectrum)
    assert table["verdict"].tolist() == ["undecided"] * 8
    assert table["statistic"].isna().all()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.5, "supported"), (-0.1, 0.5, "undecided"), (-0.5, -0.1, "not supported"), (math.nan, math.nan, "undecided")],
)
def test_verdicts_follow_the_interval(low, high, expected):
    assert _verdict(low, high) == expected


def test_claims_are_seeded():
    tables = synthetic()
    pd.testing.assert_frame_equal(claim_table(*tables, resamples=100), claim_table(*tables, resamples=100))
