"""What is measured of simple CNNs, whole and averaged over channels."""

import contextlib
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import relstab
from relstab.probes import Probes
from relstab.scale_detection.ensemble import Ensemble, initial_parameters
from relstab.scale_detection.ensemble_training import EnsembleRecipe, TrainedEnsemble, ensemble_error, train_ensemble
from relstab.scale_detection.measurement import ChannelAverages, measure_ensemble, measure_with_averages
from relstab.scale_detection.perturbations import make_pair_probes
from relstab.scale_detection.receptive_field import participation_field
from relstab.scale_detection.simple_cnn import SimpleCNN, SimpleDesign
from relstab.scale_detection.tasks import ScaleTask, split_pairs

TASK = ScaleTask("block", 16, 4)
TRAIN, TEST = split_pairs(TASK.enumerate(), 24, 20)
DESIGN = SimpleDesign(3, 2, 2, 6)
FIGURES = ["D", "G", "R", "D_sem", "G_sem", "R_sem", "denominator"]


pytestmark = pytest.mark.usefixtures("one_thread")


class Averaged(nn.Module):
    """The first layers of a network, averaged over channels by hand."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, images):
        return self.layers(images).sum(1) / self.layers(images).shape[1]


def simple_network():
    network = SimpleCNN(SimpleDesign(3, 3, 1, 4)).double()
    return network, [f"layers.{k}" for k in range(3)], [network.layers[: k + 1] for k in range(3)]


def deep_network():
    layers = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(5, 7, 2), nn.Tanh())
    network = nn.Sequential(layers, nn.Flatten(), nn.LazyLinear(1)).double()
    network(torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    return network, ["0.1", "0.2", "0.4"], [layers[:2], layers[:3], layers]


PROBES = {
    simple_network: make_pair_probes(TASK, TEST.sites, generator=torch.Generator().manual_seed(1)),
    deep_network: make_pair_probes(
        ScaleTask("block", 8, 4, dimension=2), torch.arange(40).reshape(20, 2), generator=torch.Generator().manual_seed(1)
    ),
}


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("build", PROBES)
def test_layers_are_measured_whole_and_averaged(build, batch_size):
    network, names, beginnings = build()
    probes = PROBES[build]
    table = measure_with_averages(network, probes, names, batch_size)
    inner = [(name, representation, k) for k, name in enumerate(names, 1) for representation in ("average", "whole")]
    places = [("input", "whole", 0), *inner, ("output", "whole", len(names) + 1)]
    assert list(table[["layer", "representation", "k"]].itertuples(index=False, name=None)) == places
    expected = relstab.measure_sensitivity(network, probes, ["input", *names, "output"], batch_size)
    whole = table[table["representation"] == "whole"]
    np.testing.assert_allclose(whole[FIGURES], expected[FIGURES], rtol=1e-12)
    assert list(whole["kind"]) == list(expected["kind"])
    for name, beginning in zip(names, beginnings, strict=True):
        by_hand = relstab.measure_sensitivity(Averaged(beginning).double(), probes, ["output"], batch_size).iloc[0]
        (average,) = table[(table["layer"] == name) & (table["representation"] == "average")].to_dict("records")
        np.testing.assert_allclose([average[name] for name in FIGURES], [by_hand[name] for name in FIGURES], rtol=1e-10)
        assert average["D"] != pytest.approx(float(whole.loc[whole["layer"] == name, "D"].iloc[0]), rel=1e-3)


def test_the_network_is_left_as_it_was():
    network, names, _ = simple_network()
    images = PROBES[simple_network].images.double()
    expected = network(images)
    network.train()
    watched = ChannelAverages(network, names)
    assert torch.equal(watched(images), expected)
    watched.close()
    measure_with_averages(network, PROBES[simple_network], names)
    with pytest.raises(ValueError, match="NaN, infinite"):
        measure_with_averages(network, Probes(*[torch.full((3, 1, 16), math.nan)] * 3), names)
    assert network.training
    assert torch.equal(network(images), expected)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.fixture(scope="module")
def trained():
    recipe = EnsembleRecipe(learning_rate=0.05, epochs=40, decay_epochs=5, weight_decay=0.2)
    with contextlib.redirect_stdout(None):
        return train_ensemble(TASK, TRAIN, DESIGN, recipe, [0, 3, 8], device="cpu")


@pytest.fixture(scope="module")
def table(trained):
    return measure_ensemble(trained, TEST, 16, ["test"], device="cpu")


def network_of(trained, state, member):
    return SimpleCNN(trained.design).set_parameters({name: value[member] for name, value in trained.states[state].items()})


def test_an_ensemble_is_measured_in_all_states(trained, table):
    keys = ["state", "seed", "noise", "k", "representation"]
    of_members = {"learning_rate", "epochs", "reached_zero", "test_error"}
    assert set(table.columns) == {*keys, "layer", "kind", *FIGURES, *of_members, "receptive_field"}
    assert list(table.index) == list(range(len(table)))
    found = set(table[keys].itertuples(index=False, name=None))
    places = [(0, "whole"), (4, "whole"), *((k, kind) for k in (1, 2, 3) for kind in ("whole", "average"))]
    assert found == {
        (state, seed, noise, *place)
        for state in ("init", "trained", "decayed")
        for seed in trained.seeds
        for noise in ("gaussian", "rectified")
        for place in places
    }
    assert len(table) == len(found)
    assert np.isfinite(table[FIGURES].to_numpy()).all()


def test_errors_are_counted(trained, table):
    images = TASK.images(TEST.sites)
    errors = set()
    for state in trained.states:
        for member, seed in enumerate(trained.seeds):
            with torch.no_grad():
                outputs = network_of(trained, state, member)(images)
            wrong = sum(int(output > 0) != int(label > 0) for output, label in zip(outputs, TEST.labels, strict=True))
            rows = table[(table["state"] == state) & (table["seed"] == seed)]
            assert rows["test_error"].tolist() == pytest.approx([wrong / len(TEST)] * len(rows), rel=1e-6)
            errors.add(wrong)
    assert len(errors) > 2


def test_an_output_of_zero_is_an_error():
    parameters = {name: torch.zeros_like(value) for name, value in initial_parameters(DESIGN, [[0]]).items()}
    assert ensemble_error(Ensemble(DESIGN, 16, parameters), TASK, TEST).tolist() == [1.0]


def test_receptive_fields_are_those_of_lit_sites(trained, table):
    lit, blank = TASK.images(torch.arange(16)[:, None]), torch.zeros(1, 1, 16)
    for state in trained.states:
        for member, seed in enumerate(trained.seeds):
            network = network_of(trained, state, member)
            rows = table[(table["state"] == state) & (table["seed"] == seed)]
            with torch.no_grad():
                for k in (1, 2, 3):
                    response, silence = (network.layers[:k](images).transpose(1, 2) for images in (lit, blank))
                    for kind in ("whole", "average"):
                        expected = float(participation_field(response, silence, 16, average=kind == "average"))
                        here = rows[(rows["k"] == k) & (rows["representation"] == kind)]["receptive_field"]
                        np.testing.assert_allclose(here, expected, rtol=1e-4)
    assert (table[table["k"] == 0]["receptive_field"] == 1).all()
    assert table[table["k"] == 4]["receptive_field"].isna().all()


def test_moves_are_those_of_both_kinds_of_noise(table):
    """D does not depend on the noise. G does: rectified noise has half the square."""
    keys = ["state", "seed", "k", "representation"]
    gaussian, rectified = (
        table[table["noise"] == noise].sort_values(keys).reset_index(drop=True) for noise in ("gaussian", "rectified")
    )
    np.testing.assert_array_equal(gaussian["D"], rectified["D"])
    assert (gaussian["G"] != rectified["G"]).all()
    for part, ratio in ((gaussian, 1), (rectified, 2)):
        inputs = part[part["k"] == 0]
        # |eta|^2 is a sum over 16 images of 16 sites: 4 standard errors sqrt(5 / 256) of its mean at most.
        np.testing.assert_allclose(1 / inputs["R"], 1 / ratio, rtol=4 * math.sqrt(5 / 256))


def test_measurements_follow_from_the_identity(trained, table):
    again = measure_ensemble(trained, TEST, 16, ["test"], device="cpu")
    pd.testing.assert_frame_equal(again, table)
    other = measure_ensemble(trained, TEST, 16, ["other"], device="cpu")
    assert not np.array_equal(other["D"], table["D"])
    pd.testing.assert_series_equal(other["receptive_field"], table["receptive_field"])


def untrained(design, parameters, members=2):
    recipe = EnsembleRecipe()
    return TrainedEnsemble(TASK, design, recipe, list(range(members)), {"init": parameters}, [0] * members, [False] * members, [])


@pytest.mark.parametrize("activation", ["relu", "abs"])
def test_homogeneous_members_have_the_fields_of_their_windows(activation):
    """Weights of 1 at F = s = 2, also where channels have different positive ones: A_k = 2^k, whole and on average."""
    design = SimpleDesign(3, 2, 2, 6, activation)
    parameters = {name: torch.ones_like(value) for name, value in initial_parameters(design, [[0], [1]]).items()}
    for layer in range(3):
        parameters[f"weights.{layer}"][1] *= torch.linspace(1, 2, 6)
        parameters[f"biases.{layer}"].zero_()
    table = measure_ensemble(untrained(design, parameters), TEST, device="cpu")
    inner = table[table["k"] < 4]
    np.testing.assert_allclose(inner["receptive_field"], 2.0 ** inner["k"], rtol=1e-5)


def test_a_constant_layer_has_no_sensitivity():
    """Of two members, one has lost all its weights: its layers give nothing, its output is its bias; the other is measured."""
    parameters = initial_parameters(DESIGN, [[0], [1]])
    for layer in range(3):
        parameters[f"weights.{layer}"][0] = 0
        parameters[f"biases.{layer}"][0] = -1
    table = measure_ensemble(untrained(DESIGN, parameters), TEST, device="cpu")
    inner = table[table["k"] > 0]
    dead, alive = (inner[inner["seed"] == seed] for seed in (0, 1))
    assert dead[["D", "G", "R", "receptive_field"]].isna().all(axis=None)
    assert (dead["test_error"] == 0.5).all()
    assert alive[["D", "G", "R"]].notna().all(axis=None)
    assert table[table["k"] == 0][["D", "G", "R"]].notna().all(axis=None)
