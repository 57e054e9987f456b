"""Simple CNNs, one by one and many at once, by the formula, by autograd and by torch's SGD; their training, also when killed."""

import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import random
import signal
import time

import numpy as np
import pytest
import torch

from relstab.files.ensemble import read_ensemble
from relstab.runs.seeding import make_generator
from relstab.scale_detection.ensemble import Ensemble, initial_parameters
from relstab.scale_detection.ensemble_training import EnsembleRecipe, train_ensemble
from relstab.scale_detection.simple_cnn import SimpleCNN, SimpleDesign
from relstab.scale_detection.tasks import ScaleTask, split_pairs
from relstab.stages.scale_detection import ensemble_of, train_and_save_ensemble

# Depth, filter, stride, and sites of the ring: windows that overlap, touch, go round the ring more than once, do not
# fill it evenly, lie as they are read (F = s = 2), or are of one site.
SHAPES = [
    (4, 2, 2, 16),
    (3, 2, 2, 11),
    (3, 2, 1, 6),
    (3, 3, 1, 7),
    (3, 3, 2, 9),
    (2, 3, 3, 10),
    (2, 4, 2, 12),
    (2, 4, 3, 11),
    (2, 5, 1, 8),
    (2, 5, 4, 9),
    (2, 1, 1, 5),
    (3, 4, 2, 8),
]
ACTIVATIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "gelu": lambda z: np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in z]),
    "abs": np.abs,
}
SCALINGS = ("mean_field", "ntk")


pytestmark = pytest.mark.usefixtures("one_thread")


def named(shape):
    depth, filter_size, stride, size = shape
    return f"K{depth}-F{filter_size}-s{stride}-on{size}"


def designs(shape, activation, channels=5):
    depth, filter_size, stride, _ = shape
    return [SimpleDesign(depth, filter_size, stride, channels, activation, scaling) for scaling in SCALINGS]


def doubled(design, members=3):
    """Parameters of members in float64."""
    identities = [[member] for member in range(members)]
    return {name: value.double() for name, value in initial_parameters(design, identities).items()}


def alone(ensemble, index):
    """A member as a network of its own."""
    return SimpleCNN(ensemble.design).double().set_parameters(ensemble.member(index))


def random_images(generator, members, batch, shape):
    return torch.randn(members, batch, shape[-1], dtype=torch.float64, generator=generator)


def by_formula(design, parameters, image):
    """Representations and output of one image, site by site from the formula."""
    phi = ACTIVATIONS[design.activation]
    layers, values = [], image[..., None]
    for k in range(design.depth):
        size, offset = len(values), (design.filter_size - 1) // 2
        weight = parameters[f"weights.{k}"].numpy()
        found = []
        for centre in range(0, size, design.stride):
            seen = np.concatenate([values[(centre - offset + j) % size] for j in range(design.filter_size)])
            z = seen @ weight / math.sqrt(len(seen)) + parameters[f"biases.{k}"].numpy()
            found.append(math.sqrt(design.filter_size) * phi(z))
        values = np.array(found)
        layers.append(values)
    channels = values.mean(0) @ parameters["beta"].numpy()
    divisor = design.channels if design.scaling == "mean_field" else math.sqrt(design.channels)
    return layers, channels / divisor + float(parameters["output_bias"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES[::3], ids=named)
def test_a_network_is_its_formula(shape, activation, generator):
    for design in designs(shape, activation, 2):
        ensemble = Ensemble(design, shape[-1], doubled(design, 1))
        flat = random_images(generator, 1, 2, shape)
        layers, outputs = ensemble.layers(flat), ensemble.outputs(flat)
        for index in range(2):
            expected, output = by_formula(design, ensemble.member(0), flat[0, index].numpy())
            assert float(outputs[0, index]) == pytest.approx(output, rel=1e-10)
            for layer, values in zip(layers, expected, strict=True):
                np.testing.assert_allclose(layer[0, index], values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_an_ensemble_is_its_members_one_by_one(shape, activation, generator):
    """Layers are [N, C, sites] of a network and [M, N, sites, C] of an ensemble."""
    for design in designs(shape, activation):
        ensemble = Ensemble(design, shape[-1], doubled(design))
        images = random_images(generator, 3, 4, shape)
        layers, outputs = ensemble.layers(images), ensemble.outputs(images)
        assert len(layers) == design.depth
        for member in range(3):
            network, values = alone(ensemble, member), images[member][:, None]
            torch.testing.assert_close(outputs[member], network(values), rtol=1e-10, atol=1e-12)
            for module, layer in zip(network.layers, layers, strict=True):
                values = module(values)
                torch.testing.assert_close(layer[member], values.transpose(1, 2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_steps_are_those_of_autograd_and_sgd(shape, activation, generator):
    """Four steps of three members with their own batches and rates, of which the last ones have images without loss."""
    for design in designs(shape, activation):
        ensemble = Ensemble(design, shape[-1], doubled(design))
        rates = torch.tensor([0.02, 0.1, 0.3], dtype=torch.float64) * design.rate_factor
        networks = [alone(ensemble, member) for member in range(3)]
        optimizers = [torch.optim.SGD(net.parameters(), lr=float(rate)) for net, rate in zip(networks, rates, strict=True)]
        for _ in range(4):
            images = random_images(generator, 3, 5, shape)
            labels = 2.0 * torch.randint(0, 2, (3, 5), generator=generator).double() - 1
            losses = ensemble.step(images, labels, rates)
            for member, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
                optimizer.zero_grad()
                loss = (1 - labels[member] * network(images[member][:, None])).clamp(min=0).mean()
                loss.backward()
                optimizer.step()
                torch.testing.assert_close(losses[member], loss.detach(), rtol=1e-10, atol=1e-12)
        for member, network in enumerate(networks):
            found = alone(ensemble, member)
            for (name, value), expected in zip(found.named_parameters(), network.parameters(), strict=True):
                # A step multiplies what rounding has made of parameters by more than 1.
                message = f"{name} of member {member}, {design}"
                torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10, msg=lambda text, m=message: f"{m}: {text}")


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4], SHAPES[-2]], ids=named)
def test_a_member_without_loss_does_not_change(shape, generator):
    design = designs(shape, "relu")[0]
    parameters = doubled(design)
    parameters["output_bias"] = torch.tensor([-10.0, 1000.0, -10.0], dtype=torch.float64)
    ensemble = Ensemble(design, shape[-1], {name: value.clone() for name, value in parameters.items()})
    rates = torch.full((3,), 0.1, dtype=torch.float64)
    images, labels = random_images(generator, 3, 5, shape), torch.ones(3, 5, dtype=torch.float64)
    losses = ensemble.step(images, labels, rates)
    assert losses[1] == 0
    assert (losses[[0, 2]] > 0).all()
    for name, value in ensemble.parameters.items():
        assert torch.equal(value[1], parameters[name][1])
        for member in (0, 2):
            assert not torch.equal(value[member], parameters[name][member]), name
    # Nor do members when none has a loss.
    after = {name: value.clone() for name, value in ensemble.parameters.items()}
    ensemble.parameters["output_bias"] += 1000
    assert (ensemble.step(images, torch.ones_like(labels), rates) == 0).all()
    for name in after.keys() - {"output_bias"}:
        assert torch.equal(ensemble.parameters[name], after[name])


def test_decay_takes_its_share_off_the_layers():
    design = designs(SHAPES[0], "relu")[0]
    parameters = doubled(design)
    ensemble = Ensemble(design, 16, {name: value.clone() for name, value in parameters.items()})
    ensemble.decay(torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64))
    for name, value in ensemble.parameters.items():
        for member, kept in enumerate((1, 0.75, 0.5)):
            expected = parameters[name][member] * (kept if name.startswith("weights") else 1)
            assert torch.equal(value[member], expected), name


def test_members_can_be_selected_and_are_copies(generator):
    design = designs(SHAPES[4], "tanh")[0]
    ensemble = Ensemble(design, 9, doubled(design))
    images = random_images(generator, 3, 4, SHAPES[4])
    chosen = ensemble.select(torch.tensor([2, 0]))
    assert len(chosen) == 2
    torch.testing.assert_close(chosen.outputs(images[[2, 0]]), ensemble.outputs(images)[[2, 0]], rtol=1e-12, atol=0)
    before = ensemble.parameters["beta"].clone()
    chosen.parameters["beta"].zero_()
    assert torch.equal(ensemble.parameters["beta"], before)


@pytest.mark.parametrize(
    ("depth", "filter_size", "stride", "size"),
    [(3, 3, 1, 10), (3, 2, 1, 9), (3, 2, 2, 24), (2, 4, 2, 24), (2, 3, 3, 18)],
)
def test_outputs_do_not_see_shifts_of_all_windows(depth, filter_size, stride, size, generator):
    """At stride 1 by any number of sites; at stride s by multiples of s^K, which take windows to windows, and not by 1."""
    shape = (depth, filter_size, stride, size)
    design = designs(shape, "relu", 12)[0]
    network = alone(Ensemble(design, size, doubled(design, 1)), 0)
    images = random_images(generator, 1, 6, shape)[0][:, None]
    expected = network(images)
    for shifts in range(1, 4):
        rolled = network(images.roll(shifts * stride**depth, 2))
        torch.testing.assert_close(rolled, expected, rtol=1e-10, atol=1e-12)
    if stride > 1:
        rolled = network(images.roll(1, 2))
        assert (rolled - expected).abs().max() > 1e-3


def test_parameters_are_standard_normal():
    """Moments of about 9,700 weights, within 4 standard errors: sqrt(1/n), sqrt(2/n) and sqrt(96/n) of 1st, 2nd and 4th."""
    design = SimpleDesign(3, 3, 1, 40)
    for parameters in (initial_parameters(design, [["a", 0]]), dict(SimpleCNN(design).state_dict())):
        values = torch.cat([value.flatten() for value in parameters.values()]).double()
        count = len(values)
        assert count == 3 * 40 + 2 * 3 * 40 * 40 + 3 * 40 + 40 + 1
        for power, moment, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
            assert float(values.pow(power).mean()) == pytest.approx(moment, abs=4 * math.sqrt(variance / count))


def test_a_members_parameters_follow_from_its_identity_alone():
    design = SimpleDesign(2, 3, 1, 4)
    together = initial_parameters(design, [["run", 0], ["run", 1], ["other", 1]])
    for index, identity in enumerate((["run", 0], ["run", 1], ["other", 1])):
        single = initial_parameters(design, [identity])
        for name, value in single.items():
            assert torch.equal(value[0], together[name][index])
    for one, two in itertools.combinations(range(3), 2):
        assert not torch.equal(together["weights.0"][one], together["weights.0"][two])
    assert {name: tuple(value.shape) for name, value in together.items()} == {
        "weights.0": (3, 3, 4), "biases.0": (3, 4), "weights.1": (3, 12, 4), "biases.1": (3, 4), "beta": (3, 4), "output_bias":
        (3,),
    }  # fmt: skip


def test_readouts_of_the_two_scalings_differ_by_the_root_of_the_channels(generator):
    """1/H and 1/sqrt(H), with the rate times H to make up for it in the mean-field scaling: changes of f are then of one size."""
    shape = SHAPES[0]
    images = random_images(generator, 1, 6, shape)
    mean_field, ntk = (dataclasses.replace(design, channels=25) for design in (designs(shape, "relu")[i] for i in (0, 1)))
    assert (mean_field.scaling, ntk.scaling) == ("mean_field", "ntk")
    parameters = doubled(mean_field, 1)
    outputs = [Ensemble(design, 16, parameters).outputs(images) - parameters["output_bias"] for design in (mean_field, ntk)]
    torch.testing.assert_close(outputs[1], 5 * outputs[0], rtol=1e-10, atol=1e-12)
    assert (mean_field.readout, ntk.readout) == (1 / 25, 1 / 5)
    assert (mean_field.rate_factor, ntk.rate_factor) == (25, 1)


# Training: 60 to 125 epochs to zero loss, a millisecond each.
TASK = ScaleTask("block", 16, 4)
TRAIN, _ = split_pairs(TASK.enumerate(), 32)
DESIGN = SimpleDesign(3, 2, 2, 8)
RECIPE = EnsembleRecipe(learning_rate=0.03, epochs=300)
DECAYING = dataclasses.replace(RECIPE, decay_epochs=20, weight_decay=0.05)
RECIPES = {"plain": RECIPE, "decaying": DECAYING}


def trained(recipe=RECIPE, seeds=(0, 1, 2), design=DESIGN, **options):
    with contextlib.redirect_stdout(None):
        return train_ensemble(TASK, TRAIN, design, recipe, seeds, device="cpu", **options)


@pytest.fixture(scope="module")
def runs():
    """Three members trained together, by the name of the recipe."""
    return {name: trained(recipe) for name, recipe in RECIPES.items()}


def assert_same_member(one, index, two, other):
    assert one.states.keys() == two.states.keys()
    for state, parameters in one.states.items():
        for name, value in parameters.items():
            assert torch.equal(value[index], two.states[state][name][other]), f"{state}, {name}"
    for key in ("epochs", "reached_zero", "loss", "seeds"):
        assert getattr(one, key)[index] == getattr(two, key)[other]


@pytest.mark.parametrize("name", RECIPES)
def test_members_are_those_trained_alone(name, runs):
    """Bit for bit, although they end at different epochs, after which the others go on without them."""
    assert len(set(runs[name].epochs)) == 3
    for index, seed in enumerate((0, 1, 2)):
        assert_same_member(runs[name], index, trained(RECIPES[name], [seed]), 0)


def test_the_same_training_gives_the_same_and_another_run_another(runs):
    again, other = trained(DECAYING), trained(dataclasses.replace(DECAYING, epochs=1), identity=["other"])
    for index in range(3):
        assert_same_member(runs["decaying"], index, again, index)
    assert not torch.equal(again.states["init"]["beta"], other.states["init"]["beta"])


@pytest.mark.parametrize("name", RECIPES)
def test_members_stop_when_they_have_no_loss_left(name, runs):
    found, recipe = runs[name], RECIPES[name]
    assert found.reached_zero == [True] * 3
    assert len(set(found.epochs)) == 3
    images, labels = TASK.images(TRAIN.sites).double(), TRAIN.labels.double()
    for member, (epoch, losses) in enumerate(zip(found.epochs, found.loss, strict=True)):
        assert len(losses) == epoch + recipe.decay_epochs
        assert losses[epoch - 1] == 0
        assert all(loss > 0 for loss in losses[: epoch - 1])
        network = SimpleCNN(DESIGN).double().set_parameters({n: v[member] for n, v in found.states["trained"].items()})
        # At zero loss y f(x) is at least 1; it was rounded to float32, hence to about 1e-7 in each of a few steps.
        assert (labels * network(images)).min() > 1 - 1e-5


def test_states_are_those_of_the_recipe(runs):
    plain, decaying = runs["plain"], runs["decaying"]
    assert list(plain.states) == ["init", "trained"]
    assert list(decaying.states) == ["init", "trained", "decayed"]
    first = initial_parameters(DESIGN, [[seed] for seed in range(3)])
    for name, value in first.items():
        assert torch.equal(plain.states["init"][name], value)
        # Up to zero loss there is no decay.
        torch.testing.assert_close(decaying.states["trained"][name], plain.states["trained"][name], rtol=1e-4, atol=1e-5)
    sizes = [decaying.states[state]["weights.1"].norm(dim=(1, 2)) for state in ("trained", "decayed")]
    assert (sizes[1] < sizes[0]).all()


def test_training_that_runs_out_of_epochs_says_so():
    short = trained(dataclasses.replace(DECAYING, epochs=5, decay_epochs=2))
    assert short.reached_zero == [False] * 3
    assert short.epochs == [5] * 3
    assert [len(losses) for losses in short.loss] == [7] * 3
    assert all(losses[4] > 0 for losses in short.loss)


def test_training_is_the_plain_loop():
    """Two epochs and one with decay by torch's SGD in float64, in the member's orders; after 12 steps the last digits differ."""
    recipe = EnsembleRecipe(learning_rate=0.02, epochs=2, decay_epochs=1, weight_decay=0.5)
    found = trained(recipe, [3], identity=["plain", 1])
    network = SimpleCNN(DESIGN).double().set_parameters({n: v[0] for n, v in found.states["init"].items()})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02 * DESIGN.channels)
    images, labels = TASK.images(TRAIN.sites).double(), TRAIN.labels.double()
    for epoch in (1, 2, 3):
        order = torch.randperm(len(TRAIN), generator=make_generator("order", "plain", 1, 3, epoch))
        losses = []
        for chosen in order.split(8):
            optimizer.zero_grad()
            loss = (1 - labels[chosen] * network(images[chosen])).clamp(min=0).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if epoch == 3:
                with torch.no_grad():
                    for layer in network.layers:
                        layer[0].weight *= 1 - 0.02 * 0.5
        assert found.loss[0][epoch - 1] == pytest.approx(np.mean(losses), rel=1e-5)
        if epoch > 1:
            state = found.states["trained" if epoch == 2 else "decayed"]
            expected = SimpleCNN(DESIGN).double().set_parameters({n: v[0] for n, v in state.items()})
            for (name, value), wanted in zip(network.named_parameters(), expected.parameters(), strict=True):
                torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_a_ridge_is_that_of_autograd_and_lasts_beyond_interpolation():
    """r sum |w|^2 / (H K) from the first step on: torch's SGD on loss and penalty gives the weights of the first epoch.

    Its steps take the ridge at the weights before a step, ours after it: the weights differ by lr * 2 r / K of a step.
    """
    validation = split_pairs(TASK.enumerate(), 32, 16)[1]
    recipe = EnsembleRecipe(learning_rate=0.03, epochs=1, ridge=0.1)
    found = trained(recipe, [5], validation=validation)
    network = SimpleCNN(DESIGN).double().set_parameters({n: v[0] for n, v in found.states["init"].items()})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03 * DESIGN.channels)
    images, labels = TASK.images(TRAIN.sites).double(), TRAIN.labels.double()
    for chosen in torch.randperm(len(TRAIN), generator=make_generator("order", 5, 1)).split(8):
        optimizer.zero_grad()
        loss = (1 - labels[chosen] * network(images[chosen])).clamp(min=0).mean()
        penalty = sum(layer[0].weight.square().sum() for layer in network.layers) / (DESIGN.channels * DESIGN.depth)
        (loss + 0.1 * penalty).backward()
        optimizer.step()
    expected = SimpleCNN(DESIGN).double().set_parameters({n: v[0] for n, v in found.states["decayed"].items()})
    for value, wanted in zip(expected.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=2e-3, atol=2e-3)
    plain = trained(EnsembleRecipe(learning_rate=0.03, epochs=1), [5]).states["trained"]
    # Each of 4 steps leaves 1 - 2 lr r / K = 0.998 of the weights.
    shrunk = found.states["decayed"]["weights.1"].norm() / plain["weights.1"].norm()
    assert float(shrunk) == pytest.approx(0.998**4, abs=1e-3)


def test_training_with_a_ridge_ends_long_after_interpolation_without_error():
    validation = split_pairs(TASK.enumerate(), 32, 16)[1]
    recipe = dataclasses.replace(RECIPE, ridge=0.01, interpolation_factor=3, epochs=1500)
    found = trained(recipe, [0, 1], validation=validation)
    assert found.reached_zero == [True] * 2
    for index, (first, losses) in enumerate(zip(found.epochs, found.loss, strict=True)):
        assert losses[first - 1] == 0
        assert all(loss > 0 for loss in losses[: first - 1])
        assert len(losses) >= 3 * first
        network = SimpleCNN(DESIGN).set_parameters({n: v[index] for n, v in found.states["decayed"].items()})
        wrong = (validation.labels * network(TASK.images(validation.sites)) <= 0).any()
        assert len(losses) == recipe.epochs or (losses[-1] == 0 and not wrong)
    with pytest.raises(ValueError, match="expected validation pairs beside a ridge, got none"):
        trained(recipe)


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(FloatingPointError, match=r"loss of the simple CNN \['run', 0\] became (nan|inf) in epoch 1 at .* 1e\+20"):
        trained(dataclasses.replace(RECIPE, learning_rate=1e20), identity=["run"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "expected learning_rate to be positive and finite, got 0.0"),
        ({"learning_rate": math.nan}, "expected learning_rate to be positive and finite, got nan"),
        ({"batch_size": 0}, "expected batch_size to be at least 1, got 0"),
        ({"epochs": 0}, "expected epochs to be at least 1, got 0"),
        ({"decay_epochs": -1}, "expected decay_epochs to be at least 0, got -1"),
        ({"weight_decay": 200.0}, "expected weight_decay times learning_rate to be at least 0 and below 1, got 200.0 times 0.01"),
        ({"weight_decay": -1.0}, "expected weight_decay times learning_rate .* got -1.0 times 0.01"),
        ({"ridge": -0.1}, "expected ridge to be at least 0 and finite, got -0.1"),
        ({"ridge": 0.1, "decay_epochs": 3}, "expected decay_epochs to be 0 beside a ridge, got 3"),
        ({"interpolation_factor": 0}, "expected interpolation_factor to be at least 1, got 0"),
    ],
)
def test_recipes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EnsembleRecipe(**options)


def test_trainings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="expected a task of dimension 1, a ring, got 2"):
        train_ensemble(ScaleTask("block", 8, 4, dimension=2), TRAIN, DESIGN, RECIPE, [0])
    with pytest.raises(ValueError, match="expected at least one seed, got none"):
        trained(seeds=[])


# Trainings that are killed, by an exception at a known step, or in processes of their own.
LONG_DECAY = dataclasses.replace(DECAYING, decay_epochs=50)
EVERY_STEP = 1e-9
NEVER = 1000.0
SEEDS = [0, 1, 2]


def keep(folder, recipe, minutes=NEVER):
    """Train and keep states, epochs and losses, with all that is printed in a log."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    options = {"device": "cpu", "checkpoints": folder / "checkpoints", "checkpoint_minutes": minutes}
    with (folder / "log").open("a", buffering=1) as log, contextlib.redirect_stdout(log):
        found = train_ensemble(TASK, TRAIN, DESIGN, recipe, SEEDS, **options)
    arrays = {f"{state}/{name}": value.numpy() for state, values in found.states.items() for name, value in values.items()}
    losses = {f"loss/{member}": losses for member, losses in enumerate(found.loss)}
    np.savez(folder / "found.npz", epochs=found.epochs, reached_zero=found.reached_zero, **arrays, **losses)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Folder of an uninterrupted training run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    keep(folder, LONG_DECAY)
    return folder


def assert_same(folder, other):
    with np.load(folder / "found.npz") as one, np.load(other / "found.npz") as two:
        assert sorted(one.files) == sorted(two.files)
        for name in two.files:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def checkpoints(folder):
    return sorted((folder / "checkpoints").rglob("step*.h5"))


def continued(folder):
    return (folder / "log").read_text().count("continued from the checkpoint in epoch")


def test_trainings_continue_from_any_of_their_steps(killed_after, undisturbed, tmp_path):
    """Before the first member has zero loss and after it, while one decays and others do not, at ends of epochs and within."""
    with np.load(undisturbed / "found.npz") as found:
        first, second, last = sorted(found["epochs"].tolist())
        assert found["reached_zero"].all()
    assert first + LONG_DECAY.decay_epochs > second > first
    moments = [1, 4 * first - 2, 4 * first, 4 * first + 1, 4 * second + 3, 4 * last, 4 * last + 82]
    for steps in moments:
        with killed_after(steps):
            keep(tmp_path, LONG_DECAY)
    keep(tmp_path, LONG_DECAY)
    assert continued(tmp_path) == len(moments)
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_killed_trainings_end_with_the_same_states(undisturbed, tmp_path):
    """In processes: after a random step or, as a step takes a millisecond, within the writing of its checkpoint."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["relstab.scale_detection.ensemble_training", "pytest"])
    moments = random.Random(4)
    for number in range(4):
        folder = tmp_path / str(number)
        process = context.Process(target=keep, args=(folder, LONG_DECAY, EVERY_STEP))
        process.start()
        step = moments.randrange(300)
        while process.is_alive() and not [file for file in checkpoints(folder) if file.name > f"step{step:010d}"]:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        process.kill()
        process.join(timeout=120)
        assert process.exitcode == -signal.SIGKILL
        keep(folder, LONG_DECAY)
        assert continued(folder) == 1
        assert_same(folder, undisturbed)


def test_a_checkpoint_of_another_recipe_is_not_used_and_waits_for_its_own(killed_after, undisturbed, tmp_path):
    with killed_after(100):
        keep(tmp_path, LONG_DECAY)
    before = set(checkpoints(tmp_path))
    assert len(before) == 2
    other = dataclasses.replace(LONG_DECAY, learning_rate=0.02)
    keep(tmp_path, other)
    log = (tmp_path / "log").read_text()
    assert "are of another training (" in log
    assert "recipe.learning_rate is 0.03, and here 0.02" in log
    assert continued(tmp_path) == 0
    keep(tmp_path / "alone", other)
    assert_same(tmp_path, tmp_path / "alone")
    assert before <= set(checkpoints(tmp_path))
    # Back with the first recipe, training continues.
    keep(tmp_path, LONG_DECAY)
    assert continued(tmp_path) == 1
    assert_same(tmp_path, undisturbed)


def test_a_checkpoint_of_the_same_pairs_in_another_order_is_not_used(tmp_path):
    """Orders of an epoch are of places in the training set, so that it is another training."""
    recipe = EnsembleRecipe(0.03, epochs=2)
    options = {"device": "cpu", "checkpoints": tmp_path, "checkpoint_minutes": EVERY_STEP}
    first = train_ensemble(TASK, TRAIN, DESIGN, recipe, [0], **options)
    turned = TRAIN[torch.arange(31, -1, -1)]
    second = train_ensemble(TASK, turned, DESIGN, recipe, [0], **options)
    alone = train_ensemble(TASK, turned, DESIGN, recipe, [0], device="cpu")
    assert first.checkpoints != second.checkpoints
    for name, value in alone.states["trained"].items():
        assert torch.equal(second.states["trained"][name], value), name


@pytest.mark.parametrize(("design", "size", "layer"), [((4, 4, 2, 3), 8, 4), ((1, 9, 1, 3), 3, 1)])
def test_a_layer_much_smaller_than_its_filter_is_refused(design, size, layer):
    with pytest.raises(ValueError, match=f"expected depth .* got depth {design[0]}: on a size of {size}, layer {layer} sees"):
        SimpleDesign(*design).sizes(size)


def test_subnormal_numbers_are_as_they_were_after_a_training():
    def flushed():
        return float(torch.full((1,), 1e-40) * 1) == 0

    before = flushed()
    try:
        for setting in (True, False):
            torch.set_flush_denormal(setting)
            train_ensemble(TASK, TRAIN, DESIGN, EnsembleRecipe(epochs=1), [0], device="cpu")
            assert flushed() == setting
    finally:
        torch.set_flush_denormal(before)


def test_the_stage_validates_a_ridge_on_pairs_that_are_not_tested(tmp_path):
    """Ring of 32, scale 8: 448 pairs in balanced classes, 64 to train, 128 to validate, 256 to test."""
    task = ScaleTask("distance", 32, 8)
    with contextlib.redirect_stdout(None):
        for name, ridge in (("plain", 0.0), ("ridge", 0.01)):
            recipe = EnsembleRecipe(epochs=2, ridge=ridge)
            train_and_save_ensemble(tmp_path / f"{name}.h5", "one", task, DESIGN, recipe, 64, 1, device="cpu")
    (_, train, everything), (trained_with, same, test) = (
        ensemble_of(read_ensemble(tmp_path / f"{name}.h5")) for name in ("plain", "ridge")
    )
    assert torch.equal(train.sites, same.sites)
    assert (len(train), len(everything), len(test)) == (64, 384, 256)
    assert int(test.labels.sum()) == 0
    assert {tuple(pair) for pair in test.sites.tolist()} < {tuple(pair) for pair in everything.sites.tolist()}
    assert list(trained_with.states) == ["init", "trained", "decayed"]
    assert trained_with.recipe.ridge == 0.01
