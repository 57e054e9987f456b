"""Steps of an ensemble as they are on a GPU: without a wait, by a position on the device, captured and repeated."""

import contextlib

import pytest
import torch

from relstab.scale_detection import ensemble_steps, ensemble_training
from relstab.scale_detection.design import EnsembleRecipe, SimpleDesign
from relstab.scale_detection.ensemble import Ensemble, initial_parameters
from relstab.scale_detection.ensemble_training import train_ensemble
from relstab.scale_detection.tasks import ScaleTask, split_pairs

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = ScaleTask("block", 16, 4)
TRAIN, _ = split_pairs(TASK.enumerate(), 32)
DESIGN = SimpleDesign(3, 2, 2, 8)
# Batches of 5, 5, ..., 2.
RECIPE = EnsembleRecipe(learning_rate=0.03, batch_size=5, epochs=300, decay_epochs=10, weight_decay=0.05)


def trained(recipe=RECIPE, **options):
    with contextlib.redirect_stdout(None):
        return train_ensemble(TASK, TRAIN, DESIGN, recipe, range(3), device="cpu", **options)


def assert_same(one, other):
    for state, parameters in one.states.items():
        for name, value in parameters.items():
            assert torch.equal(value, other.states[state][name]), f"{state}, {name}"
    assert (one.epochs, one.loss) == (other.epochs, other.loss)


@pytest.fixture
def captures(monkeypatch):
    """Steps are captured on the CPU, too, where a replay runs them again; the devices of the captures."""
    devices = []

    def capture(step, _generators, device):
        devices.append(device)
        return step

    def steps(*arguments):
        return ensemble_steps.EnsembleSteps(*arguments, graph=True)

    monkeypatch.setattr(ensemble_steps, "capture", capture)
    monkeypatch.setattr(ensemble_training, "EnsembleSteps", steps)
    return devices


def test_captured_steps_train_the_same_networks(request):
    """Bit for bit, with a smaller last batch; captured again where members begin to decay and where they leave."""
    expected = trained()
    captures = request.getfixturevalue("captures")
    assert_same(trained(), expected)
    assert len(set(expected.epochs)) == 3
    # At first, when a member begins to decay, when one leaves, and where those that are left do not decay yet.
    assert 4 <= len(captures) <= 6


@pytest.mark.usefixtures("captures")
def test_steps_that_cannot_be_captured_are_run_one_by_one(monkeypatch, capsys):
    expected = trained()

    def refused(_step, _generators, _device):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(ensemble_steps, "capture", refused)
    found = train_ensemble(TASK, TRAIN, DESIGN, RECIPE, range(3), device="cpu")
    assert_same(found, expected)
    assert "without a CUDA graph" in capsys.readouterr().out


def test_a_training_continues_in_the_middle_of_an_epoch(captures):
    """The position on the device follows the one of the run."""
    device = torch.device("cpu")
    images, labels = TASK.images(TRAIN.sites).flatten(1), TRAIN.labels.float()
    order = torch.stack([torch.randperm(32, generator=torch.Generator().manual_seed(member)) for member in range(2)])
    rates, share = torch.full((2,), 0.1), torch.tensor([0.0, 0.01])

    def begun(parameters, position, total):
        ensemble = Ensemble(DESIGN, TASK.size, {name: value.clone() for name, value in parameters.items()})
        steps = ensemble_steps.EnsembleSteps(ensemble, images, labels, 5, decays=True, graph=True)
        steps.begin(order, position, total, rates, share)
        return steps

    whole = begun(initial_parameters(DESIGN, [[0], [1]]), 0, torch.zeros(2))
    for position in range(3):
        whole.step(position)
    rest = begun(whole.ensemble.parameters, 3, whole.total)
    for position in range(3, 7):
        whole.step(position)
        rest.step(position)
    assert torch.equal(whole.total, rest.total)
    for name, value in whole.ensemble.parameters.items():
        assert torch.equal(value, rest.ensemble.parameters[name]), name
    assert captures == [device, device]


SHAPES = [(4, 2, 2, 16), (3, 2, 2, 11), (3, 3, 1, 7), (2, 4, 3, 11), (2, 5, 4, 9)]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_without_a_wait_is_the_same_bit_for_bit(shape, activation, generator):
    """Also where no image has a loss: of the parameters, zeros are subtracted."""
    depth, filter_size, stride, size = shape
    design = SimpleDesign(depth, filter_size, stride, 5, activation)
    one, other = (Ensemble(design, size, initial_parameters(design, [[0], [1], [2]])) for _ in range(2))
    rates = torch.tensor([0.02, 0.1, 0.3])
    losses = []
    for step in range(6):
        for ensemble in (one, other):
            ensemble.parameters["output_bias"] += 1000.0 * (step == 4)
        images = torch.randn(3, 5, size, generator=generator)
        labels = torch.ones(3, 5) if step > 3 else 2.0 * torch.randint(0, 2, (3, 5), generator=generator) - 1
        loss = one.step(images, labels, rates)
        assert torch.equal(loss, other.step(images, labels, rates, early_exit=False))
        losses.append(float(loss.sum()))
        for name, value in one.parameters.items():
            assert torch.equal(value, other.parameters[name]), name
    assert (losses[0] > 0, losses[5]) == (True, 0.0)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_gradients_of_windows_add_up_as_by_assignment(shape, generator):
    """Bit for bit, and up to rounding as by index_add."""
    depth, filter_size, stride, size = shape
    design = SimpleDesign(depth, filter_size, stride, 5)
    ensemble = Ensemble(design, size, initial_parameters(design, [[0], [1]]))
    read = ensemble._windows[0]
    gradient = torch.randn(2, 3 * len(read), filter_size * 4, generator=generator)
    expected = torch.zeros(2, 3, size, 4)
    by_site = gradient.reshape(2, 3, *read.shape, 4)
    for place in range(filter_size):
        start = (place - (filter_size - 1) // 2) % size
        whole = min(len(read), -(-(size - start) // stride))
        expected[:, :, start : start + whole * stride : stride] += by_site[:, :, :whole, place]
        if whole < len(read):
            expected[:, :, (start + whole * stride) % size :: stride][:, :, : len(read) - whole] += by_site[:, :, whole:, place]
    assert torch.equal(ensemble._unread(gradient, expected.shape, 0), expected.flatten(1, 2))
    summed = torch.zeros(2, 3, size, 4).index_add_(2, read.t().flatten(), by_site.transpose(2, 3).flatten(2, 3))
    torch.testing.assert_close(expected, summed)
