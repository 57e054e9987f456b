"""What runs on a GPU, on a pretended one: where tensors are, what the host waits for, and what a checkpoint holds."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import relstab
from relstab.architectures import ARCHITECTURES
from relstab.config import Training
from relstab.files.dataset import Dataset
from relstab.scale_detection.design import EnsembleRecipe, SimpleDesign
from relstab.scale_detection.ensemble import Ensemble
from relstab.scale_detection.ensemble_training import train_ensemble
from relstab.scale_detection.measurement import measure_ensemble
from relstab.scale_detection.tasks import ScaleTask, split_pairs
from relstab.training.run import TrainingRun

from pretended_cuda import CUDA, pretended_cuda


def noise_images(count=24):
    rng = np.random.default_rng(0)
    images = {part: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for part, n in (("train", count), ("test", 10))}
    labels = {part: np.arange(len(values)) % 10 for part, values in images.items()}
    return Dataset("noise", images, labels, np.full(3, 0.5, np.float32), np.full(3, 0.29, np.float32))


def small_network(device):
    """A step with all that a training step has: batches by position, noise, dropout, batch norm, autocast, momentum."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 5)
    model = nn.Sequential(*layers).to("cuda")
    rates = torch.linspace(0.1, 0.01, 20).to("cuda")
    rate, total = torch.zeros((), device="cuda"), torch.zeros((), device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, fused=True)
    generator = torch.Generator("cuda").manual_seed(3)
    images, labels = torch.randn(40, 3, 8, 8, device="cuda"), torch.arange(4, device="cuda")
    position = torch.zeros((), dtype=torch.int64, device="cuda")

    def step():
        rate.copy_(rates.take(position))
        batch = images[(4 * position + torch.arange(4, device="cuda")) % 40]
        batch = batch + torch.randn(batch.shape, device="cuda", generator=generator)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = functional.cross_entropy(model(batch), labels)
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())
        position.add_(1)

    for _ in range(3):
        step()
    return step, generator, lambda: [value.cpu() for value in (total, torch.cuda.get_rng_state(), *model.state_dict().values())]


def test_a_replayed_graph_does_what_its_steps_do():
    """And recording changes nothing: 3 + 9 steps, one by one or with a graph, give the same bits."""
    with pretended_cuda() as device:
        step, _, state = small_network(device)
        with device.refusing():
            for _ in range(9):
                step()
        expected = state()
    with pretended_cuda() as device:
        step, generator, state = small_network(device)
        before = state()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            step()
        assert all(torch.equal(one, other) for one, other in zip(before, state(), strict=True))
        launches = device.launches
        with device.refusing():
            for _ in range(9):
                graph.replay()
        assert device.launches == launches + 9
        assert all(torch.equal(one, other) for one, other in zip(expected, state(), strict=True))


def bad_operations():
    here, generator = torch.ones(4), torch.Generator().manual_seed(0)
    there = here.cuda()
    return {
        "tensors on cuda:0 and on cpu, shape (4,)": lambda: there + here,
        "a generator on cpu for a tensor on cuda:0": lambda: torch.randn(3, device="cuda", generator=generator),
        "a generator on cuda:0 for a tensor on cpu": lambda: torch.randn(3, generator=torch.Generator("cuda")),
        "the host waits for the device: aten::_local_scalar_dense": lambda: bool((there > 0).any()),
        "the host waits for the device: aten::_to_copy": there.cpu,
        "the host waits for the device: aten::index": lambda: there[there > 0],
        "the host copies to the device: aten::_to_copy": lambda: torch.tensor([1.0, 2.0], device="cuda"),
        "the host copies to the device: aten::copy_": lambda: there.copy_(here),
        "the host copies to the device: aten::index": lambda: there[torch.arange(2)],
    }


@pytest.mark.parametrize("recorded", [False, True])
def test_mistakes_are_errors_with_file_and_line(recorded):
    with pretended_cuda() as device:
        for message, operation in bad_operations().items():
            with (
                torch.cuda.graph(torch.cuda.CUDAGraph()) if recorded else device.refusing(),
                pytest.raises(RuntimeError) as refused,
            ):
                operation()
            assert all(part in str(refused.value) for part in message.split(": ")), refused.value
            assert "unit/test_pretended_cuda.py:" in str(refused.value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), pytest.raises(RuntimeError, match="does not know this generator"):
            torch.randn(3, device="cuda", generator=torch.Generator("cuda"))


RECIPES = {
    "fc2": {"optimizer": "adam", "precision": "float32"},
    "alexnet": {"precision": "bfloat16", "snapshots": 2},
    "vgg11_bn": {"precision": "bfloat16", "initialization": "he"},
    "efficientnet_b0": {"precision": "float32"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_training_waits_for_nothing_and_resumes_to_the_same_weights(name, monkeypatch, tmp_path):
    """Interrupted in mid-epoch, with a checkpoint after every step; dropout and all random numbers are part of it."""
    common = {"epochs": 2, "batch_size": 8, "width": 0.05, "crop_padding": 2, "flip": True}
    recipe = Training(**{**ARCHITECTURES[name].recipe, **common, **RECIPES[name]})
    test = torch.randn(10, 3, 32, 32), torch.arange(10)
    step, steps = TrainingRun.step, []

    def train(checkpoints=None):
        with pretended_cuda() as device:

            def checked_step(run):
                if checkpoints and len(steps) == 4:
                    steps.append("interrupted")
                    raise KeyboardInterrupt
                with device.refusing():
                    step(run)
                steps.append(run.where)

            monkeypatch.setattr(TrainingRun, "step", checked_step)
            network = relstab.train_network(
                name, noise_images(), test, recipe, 1.0, 0, device="cuda", checkpoints=checkpoints, checkpoint_minutes=0
            )
        return network

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    resumed = train(tmp_path)
    assert steps[4] == "interrupted"
    assert len(steps) == 7  # the second half only
    whole = train()
    assert resumed.history == whole.history
    assert resumed.states.keys() == whole.states.keys()
    for state, weights in whole.states.items():
        for key, value in weights.items():
            assert torch.equal(value, resumed.states[state][key]), (state, key)
