import math

import numpy as np
import pandas as pd
import pytest

import relstab
from relstab.files.hdf5 import write_table
from relstab.paper_layers import paper_layers
from relstab.tables.claims import _verdict, claim_table
from relstab.tables.networks import (
    correlation_table,
    error_above_zero,
    of_sizes,
    output_sensitivities,
    read_table,
)

from helpers import synthetic


def test_correlations_are_those_of_the_outputs():
    networks, sensitivity, _ = synthetic(noise=(0.0, 3.0))
    table = correlation_table(networks, sensitivity, resamples=200)
    table = table[table["group"] == "all"].set_index(["noise", "state", "sensitivity"])
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
    keys = ["state", "sensitivity"]
    table = correlation_table(networks, sensitivity, resamples=100).query("group == 'all'").set_index(["training_images", *keys])
    assert table["networks"].groupby("training_images").unique().to_dict() == {64: [12], 512: [12], "all": [24]}
    single = correlation_table(*synthetic()[:2], resamples=100).query("group == 'all'").set_index(keys)
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


def test_claims_about_errors_are_over_the_networks_of_all_sizes_and_those_about_layers_of_the_largest():
    tables = of_two_sizes()
    keys = ["claim", "group", "decided_by"]
    claims, alone = (claim_table(*each, resamples=100).set_index(keys) for each in (tables, synthetic()))
    assert claims.index.tolist() == alone.index.tolist()
    assert claims.loc[("12a", "all", ""), "statistic"] == pytest.approx(1)
    assert claims.loc[("12b", "all", ""), "statistic"] == pytest.approx(0.5)
    twice = claims.index.get_level_values("claim").isin(["1", "2", "3", "1'", "2'", "7b", "12", "12a", "12b"])
    assert (claims.loc[twice, "networks"] == 2 * alone.loc[twice, "networks"]).all()
    # Of layers and filters: those of the largest size, whose error is half of theirs alone.
    assert alone.loc[["4", "5", "6", "7c"], "networks"].min() > 0
    pd.testing.assert_frame_equal(claims[~twice], alone[~twice])


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
        ("fc6", 5),
        ("fc6_wide", 6),
        ("efficientnet_b0", 32),
    ],
)
def test_networks_have_as_many_layers_as_their_names_say(name, count):
    """ResNet18: 17 convolutions and the read-out; VGG11 for small images: 8 and the read-out; hidden layers count as
    well: DenseNetL6 has 5.

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
    again = [read_table(tmp_path / f"{name}.csv") for name in ("networks", "sensitivity")]
    pd.testing.assert_frame_equal(again[0], networks)
    pd.testing.assert_frame_equal(again[1], sensitivity, check_dtype=False)
    assert set(again[1]["shuffle"]) == {"none", "0", "1"}


def test_identifiers_are_text_and_none_is_missing(tmp_path):
    """An architecture named NA drops out of nothing, data set 007 stays 007, and layers 0.2 and 0.20 are two."""
    networks, sensitivity, spectrum = synthetic()
    networks, sensitivity, spectrum = (
        table.assign(dataset="007", architecture=table["seed"].map(lambda seed: ["NA", "nan", "null", "null"][seed // 3]))
        for table in (networks, sensitivity, spectrum)
    )
    sensitivity["layer"] = sensitivity["layer"].replace({"c1": "0.2", "c2": "0.20"})
    tables = {"networks": networks, "sensitivity": sensitivity, "spectrum": spectrum}
    for name, table in tables.items():
        write_table(tmp_path / f"{name}.csv", table)
    again = [read_table(tmp_path / f"{name}.csv") for name in tables]
    assert set(again[0]["dataset"]) == {"007"}
    assert set(again[2]["architecture"]) == {"NA", "nan", "null"}
    assert set(again[1]["layer"]) == {"input", "0.2", "a1", "0.20", "a2", "output"}
    pd.testing.assert_frame_equal(claim_table(*again, resamples=100), claim_table(*tables.values(), resamples=100))


def test_missing_numbers_are_nan_and_floats_have_all_their_digits(tmp_path):
    table = pd.DataFrame({"layer": ["", "a"], "kind": ["none", "nan"], "rho": [math.nan, 1 / 3], "noise": [10 / 3, 0.1 + 0.2]})
    write_table(tmp_path / "table.csv", table)
    again = read_table(tmp_path / "table.csv")
    assert again["layer"].tolist() == ["", "a"]
    assert again["kind"].tolist() == ["none", "nan"]
    assert math.isnan(again["rho"][0])
    assert again["rho"][1] == 1 / 3
    assert again["noise"].tolist() == [3.33333333333, 0.3]  # as in file names


@pytest.mark.parametrize("content", ["", "a,b\n1,2,3\n4\n1,2,3,4,5\n", b"\xff\xfe\x00", "dataset,seed\nx,", "a,b\n1,2,3,4\n5\n"])
def test_a_damaged_table_is_named(tmp_path, content):
    (tmp_path / "networks.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"networks.csv: expected a table .*, got .*: delete the file and run again"):
        read_table(tmp_path / "networks.csv")


def verdicts(*tables):
    """Claims by number: of all networks, or of convolutional ones where the claim is about these alone."""
    return claim_table(*tables, resamples=300).drop_duplicates("claim").set_index("claim")


def test_claims_are_decided_from_tables_that_were_made_to_hold():
    networks, sensitivity, spectrum = synthetic(noise=(0.0, 3.0))
    table = verdicts(networks.assign(test_images=10**6), sensitivity, spectrum)
    # G falls with R, and the error grows with it.
    for claim in ("1'", "2", "2'", "4", "5", "5a", "6", "7b", "12", "12a", "12b"):
        assert table.loc[claim, "verdict"] == "supported", claim
    assert table.loc["6", "statistic"] == pytest.approx(math.log(2 / 3 / (1 / 2)), abs=0.1)
    # Of the two layers of the paper only one is in the first half: no slope is fitted to it.
    halves = claim_table(networks, sensitivity, spectrum, resamples=300).query("claim == '5b'").set_index("decided_by")["verdict"]
    assert halves.to_dict() == {"first half, stale statistics": "undecided", "second half, stale statistics": "supported"}
    assert table.loc["7c", "verdict"] == "observation"
    assert table.loc[["12", "12a", "12b"], "statistic"].tolist() == pytest.approx([1, 1, 0.5])
    assert list(table.index) == ["1", "1'", "2", "2'", "3", "4", "5", "5a", "5b", "6", "7b", "7c", "12", "12a", "12b"]


def test_claims_are_refused_by_tables_that_were_made_to_fail():
    networks, sensitivity, spectrum = synthetic(noise=(0.0, 3.0))
    networks["test_error"] = 0.01 / networks["test_error"]  # rises where R falls
    swapped = {"init": "trained", "trained": "init"}
    sensitivity["state"] = sensitivity["state"].replace(swapped)
    spectrum["state"] = spectrum["state"].replace(swapped)
    table = verdicts(networks, sensitivity, spectrum)
    for claim in ("4", "5", "6", "12", "12a"):
        assert table.loc[claim, "verdict"] == "not supported", claim
    assert table.loc["7c", "statistic"] < 0


def test_what_is_the_same_at_initialization_was_not_made_by_training():
    """With the same outputs in both states, claims 1' and 2' have a statistic of exactly 0 in every resample."""
    networks, sensitivity, spectrum = synthetic()
    trained = sensitivity[sensitivity["state"] == "trained"]
    states = [trained.assign(state=state) for state in ("init", "init_frozen", "trained")]
    table = claim_table(networks, pd.concat(states), spectrum, resamples=300)
    for claim in ("1'", "2'", "7b"):
        rows = table[table["claim"] == claim]
        assert rows["decided_by"].tolist() == ["init", "init_frozen"] * 2, claim
        assert (rows[["statistic", "low", "high"]] == 0).all(axis=None), claim
        assert (rows["verdict"] == "undecided").all(), claim


def test_rho_trained_minus_rho_at_initialization_is_that_of_the_correlation_table():
    networks, sensitivity, spectrum = synthetic()
    rho = (
        correlation_table(networks, sensitivity, resamples=100).query("group == 'all'").set_index(["state", "sensitivity"])["rho"]
    )
    table = verdicts(networks, sensitivity, spectrum)
    assert table.loc["1'", "statistic"] == pytest.approx(rho["trained", "R"] - rho["init", "R"])
    assert table.loc["2'", "statistic"] == pytest.approx(rho["init", "G"] - rho["trained", "G"])


def test_claim_4_is_fitted_from_the_first_layer():
    """R of the input is 1 by construction; the made-up one of 1000 would make any network fall."""
    networks, sensitivity, spectrum = synthetic()
    moved = sensitivity.assign(R=sensitivity["R"].where(sensitivity["layer"] != "input", 1000.0))
    first, second = verdicts(networks, sensitivity, spectrum), verdicts(networks, moved, spectrum)
    pd.testing.assert_frame_equal(first, second)


def test_medians_of_r_decide_claim_12_where_there_are_some():
    networks, sensitivity, spectrum = synthetic()
    networks["test_images"] = 10**6
    table = verdicts(networks, sensitivity.assign(R_median=sensitivity["R"] / 9), spectrum)
    assert table.loc["12a", "statistic"] == pytest.approx(3)
    assert table.loc["12a", "verdict"] == "not supported"
    assert table.loc["12b", "verdict"] == "supported"
    assert table.loc["12", "verdict"] == "not supported"
    assert "R of medians" in table.loc["12a", "statement"]


def test_shuffles_are_told_apart_by_the_statistics_of_batch_norm_by_half_and_by_architecture():
    """Recalibrated shuffles that change nothing: no channel pooling, all that R_k falls is spatial."""
    networks, sensitivity, spectrum = several_architectures(4, 3)
    plain = sensitivity[sensitivity["shuffle"] == "none"]
    recalibrated = plain[plain["state"] == "trained"].assign(shuffle="0", statistics="recalibrated")
    table = claim_table(networks, pd.concat([sensitivity.assign(statistics="stale"), recalibrated]), spectrum, resamples=300)
    whole = table[table["claim"] == "5"].set_index(["decided_by", "group"])
    for group in ("convolutional", "net0", "net3"):
        assert whole.loc[("stale statistics", group), "statistic"] == pytest.approx(0.22), group
        assert whole.loc[("recalibrated statistics", group), "statistic"] == 0, group
    assert whole.loc[("stale statistics", "convolutional"), ["networks", "architectures"]].tolist() == [12, 4]
    assert whole.loc[("stale statistics", "net0"), ["networks", "architectures"]].tolist() == [3, 1]
    halves = table[table["claim"].isin(["5a", "5b"])].set_index(["claim", "decided_by"])["statistic"]
    # ln R_k rises by 0.3 times the depth of the table, 0.4 at the only layer of the first half (0 shuffles 0.2 to 0.4).
    assert halves["5a", "first half, stale statistics"] == pytest.approx(0.12)
    assert halves["5a", "second half, stale statistics"] == pytest.approx(0.27)
    assert halves["5a", "second half, recalibrated statistics"] == 0
    assert halves["5b", "second half, recalibrated statistics"] == pytest.approx(
        halves["5b", "second half, stale statistics"], abs=0.5
    )


def several_architectures(architectures, seeds):
    """Synthetic tables with the networks shared out among architectures, seed by seed."""
    tables = synthetic(networks=architectures * seeds)
    return [
        table.assign(architecture="net" + (table["seed"] // seeds).astype(str), seed=table["seed"] % seeds) for table in tables
    ]


def test_fully_connected_networks_can_carry_a_correlation_by_themselves():
    """Four convolutional architectures with no correlation, and two fully connected ones far away: all together have one."""
    networks, sensitivity, spectrum = several_architectures(6, 2)
    r = {"net0": 0.1, "net1": 0.1, "net2": 0.2, "net3": 0.2, "net4": 5.0, "net5": 7.0}
    error = {"net0": 0.02, "net1": 0.04, "net2": 0.02, "net3": 0.04, "net4": 0.5, "net5": 0.5}
    networks["test_error"] = networks["architecture"].map(error)
    sensitivity["R"] = sensitivity["architecture"].map(r)
    dense = sensitivity["architecture"].isin(["net4", "net5"])
    sensitivity.loc[dense & (sensitivity["kind"] == "Conv2d"), "kind"] = "Linear"
    rho = (
        correlation_table(networks, sensitivity, resamples=100)
        .query("state == 'trained' and sensitivity == 'R'")
        .set_index("group")
    )
    assert rho.loc["all", ["networks", "architectures"]].tolist() == [12, 6]
    assert rho.loc["convolutional", ["networks", "architectures"]].tolist() == [8, 4]
    assert rho.loc["all", "rho"] > 0.9
    assert rho.loc["convolutional", "rho"] == pytest.approx(0, abs=1e-12)
    claims = claim_table(networks, sensitivity, spectrum, resamples=100)
    assert claims[claims["claim"] == "1'"]["networks"].tolist() == [12, 8]


@pytest.mark.parametrize(("fall", "verdict"), [(0.0, "supported"), (0.05, "supported"), (2.0, "not supported")])
def test_claim_4_needs_networks_at_initialization_that_fall_less_than_half_as_much(fall, verdict):
    networks, sensitivity, spectrum = synthetic()
    initial = sensitivity["state"] == "init"
    sensitivity.loc[initial, "R"] = np.exp(-fall * sensitivity.loc[initial, "depth"])
    assert verdicts(networks, sensitivity, spectrum).loc["4", "verdict"] == verdict


def test_claim_3_counts_levels_at_which_nothing_learned():
    networks, sensitivity, spectrum = synthetic(noise=(0.0, 3.0, 5.0))
    networks.loc[networks["noise"] == 5.0, "learned"] = False
    row = verdicts(networks, sensitivity, spectrum).loc["3"]
    assert row["verdict"] == "undecided"
    assert math.isnan(row["statistic"])


def test_without_enough_networks_claims_are_undecided():
    table = verdicts(*synthetic(networks=3)).drop("7c")
    assert (table["verdict"] == "undecided").all()


def test_without_convolutions_or_without_anything_learned_claims_are_undecided():
    networks, sensitivity, spectrum = synthetic()
    plain = sensitivity[sensitivity["shuffle"] == "none"].copy()
    plain.loc[plain["kind"] == "Conv2d", "kind"] = "Linear"
    table = claim_table(networks, plain, spectrum.iloc[:0], resamples=300).set_index(["claim", "group"])
    assert table["verdict"].loc[[("3", "all"), ("5", "convolutional"), ("6", "convolutional")]].tolist() == ["undecided"] * 3
    assert table["verdict"].loc[[("2", "all"), ("4", "all")]].tolist() == ["supported"] * 2
    assert table["networks"].loc[[("2", "all"), ("2", "convolutional")]].tolist() == [12, 0]
    table = verdicts(networks.assign(learned=False), sensitivity, spectrum).drop("7c")
    assert (table["verdict"] == "undecided").all()
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
