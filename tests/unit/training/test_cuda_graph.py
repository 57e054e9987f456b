"""The step as a CUDA graph against the step without one: on a pretended GPU, and on a real one where there is one."""

import random
import signal
import types

import numpy as np
import pytest
import torch
from pretended_cuda import PretendedGraph, pretended_cuda
from torch import nn

import relstab
from relstab.architectures import ARCHITECTURES
from relstab.config import Training
from relstab.files.dataset import Dataset
from relstab.files.trained_early import PlannedNetwork, early_path
from relstab.stages import networks as stage
from relstab.training import cuda_graph as graph_module
from relstab.training import together
from relstab.training import train as train_module
from relstab.training import training_run as run_module
from relstab.training.together import train_networks
from relstab.training.training_run import TrainingRun

from helpers import contents

# Orders, crops, flips, noise and dropout are drawn; 28 images in batches of 8 are 3 steps per pass and one of 4 images.
COMMON = {"epochs": 2, "batch_size": 8, "crop_padding": 2, "flip": True, "learning_rate": 0.01, "width": 0.1, "snapshots": 2}
CASES = {
    "lenet": {},
    "alexnet": {"precision": "bfloat16"},
    "resnet18": {"precision": "bfloat16", "steps_per_epoch": 5},
    "fc2": {"optimizer": "adam", "learning_rate": 1e-3, "warmup_epochs": 1},
    "vgg11_bn": {"diffeo_displacement": 1.0, "precision": "float32"},
}


def data(count=28, size=32):
    rng = np.random.default_rng(0)
    parts = {part: rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8) for part, n in (("train", count), ("test", 20))}
    labels = {part: np.arange(len(images)) % 10 for part, images in parts.items()}
    return Dataset("noise", parts, labels, np.full(3, 0.5, np.float32), np.full(3, 0.29, np.float32))


def arguments(name, seed=0, **recipe):
    """Of relstab.train_network."""
    generator = torch.Generator().manual_seed(1)
    return {
        "architecture": name,
        "dataset": data(),
        "test": (torch.randn(20, 3, 32, 32, generator=generator), torch.arange(20) % 10),
        "recipe": Training(**{**ARCHITECTURES[name].recipe, **COMMON, **CASES.get(name, {}), **recipe}),
        "sigma": 1.0,
        "seed": seed,
    }


def train(name, graphs=True, recipe=None, **options):
    """A network trained on CUDA, with its step as a graph or not."""
    with pytest.MonkeyPatch.context() as patch:
        if not graphs:
            patch.setattr(run_module, "graphs_are_possible", lambda _device: False)
        return relstab.train_network(**{**arguments(name, **(recipe or {})), **options}, device="cuda")


def assert_same(one, two):
    assert one.history == two.history
    assert one.states.keys() == two.states.keys()
    for state, tensors in one.states.items():
        for name, value in tensors.items():
            assert torch.equal(value, two.states[state][name]), (state, name)


@pytest.fixture
def pretended(monkeypatch):
    """A pretended GPU that takes graphs; its attribute ``replays`` counts them."""
    replays = []
    replay = PretendedGraph.replay
    monkeypatch.setattr(PretendedGraph, "replay", lambda graph: (replays.append(1), replay(graph)))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda _mode: None)
    with pretended_cuda() as device:
        default = types.SimpleNamespace(
            graphsafe_get_state=lambda: device.generator,
            graphsafe_set_state=lambda generator: setattr(device, "generator", generator),
        )
        monkeypatch.setattr(torch.cuda, "default_generators", [default])
        monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: device.generator.manual_seed(seed))
        device.replays = replays
        yield device


@pytest.mark.parametrize("name", CASES)
def test_graphs_give_the_weights_of_steps_without(name, pretended):
    plain = train(name, graphs=False)
    assert not pretended.replays
    graphed = train(name)
    # Of 8 steps (of ResNet18: 10), 2 have 4 images and 3 are before the graph.
    assert len(pretended.replays) == (5 if name == "resnet18" else 3)
    assert_same(graphed, plain)


def interrupted(name, folder, after, **options):
    """The checkpoints of a training run that ends after some steps."""
    step = TrainingRun.step

    def limited(run):
        if run.step_number == after:
            raise KeyboardInterrupt
        step(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "step", limited)
        with pytest.raises(KeyboardInterrupt):
            train(name, checkpoints=folder, checkpoint_minutes=0, **options)


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(("name", "after"), [("alexnet", 7), ("fc2", 2)])
def test_training_resumed_in_mid_epoch_ends_with_the_same_weights(name, after, tmp_path):
    """Without graphs where the first part had them, too: they are no part of what a checkpoint is of."""
    whole = train(name)
    for number, graphs in enumerate((True, False)):
        interrupted(name, tmp_path / str(number), after)
        assert_same(train(name, graphs, checkpoints=tmp_path / str(number)), whole)


def test_the_step_of_a_compiled_network_is_a_graph(pretended, monkeypatch):
    """Its forward pass is another module than the network whose weights it changes. What the compiler makes needs a real GPU."""
    plain = train("lenet", graphs=False)
    compiled = []

    def compile_(model, **_options):
        compiled.append(model)
        return nn.Sequential(model)

    monkeypatch.setattr(torch, "compile", compile_)
    assert_same(train("lenet", recipe={"compile": True}), plain)
    assert len(compiled) == 1
    assert len(pretended.replays) == 3


class Own(nn.Module):
    """A user's network, with an extra in its forward pass."""

    def __init__(self, extra):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.LazyLinear(10))
        self.layers(torch.zeros(1, 3, 32, 32))
        self.count, self.extra = 0, extra

    def forward(self, images):
        self.extra(self)
        return self.layers(images)


def count(model):
    model.count += 1


EXTRAS = {
    "the network changes numbers or draws random numbers on the host": [
        count, lambda _: torch.rand(1), lambda _: random.random(), lambda _: np.random.rand(),  # noqa: NPY002
    ],
    "waits for the device": [lambda model: float(next(model.parameters()).detach().sum())],
}  # fmt: skip


@pytest.mark.parametrize(("why", "extra"), [(why, extra) for why, extras in EXTRAS.items() for extra in extras])
def test_a_network_that_a_graph_would_change_is_trained_without_one(why, extra, pretended, monkeypatch, capsys):
    def trained(extra):
        monkeypatch.setattr(train_module, "build_model", lambda *_: Own(extra))
        return train("lenet")

    plain = trained(lambda _: None)
    assert pretended.replays
    assert "without a CUDA graph" not in capsys.readouterr().out
    pretended.replays.clear()
    found = trained(extra)
    assert not pretended.replays
    lines = [line for line in capsys.readouterr().out.splitlines() if "without a CUDA graph" in line]
    assert len(lines) == 1
    assert lines[0].startswith("lenet, noise 1, seed 0: steps without a CUDA graph")
    assert why in lines[0]
    assert_same(found, plain)


def test_a_graph_that_makes_another_step_is_not_used(pretended, monkeypatch, capsys):
    plain = train("lenet", graphs=False)
    replay = PretendedGraph.replay

    def twice(graph):
        replay(graph)
        replay(graph)

    monkeypatch.setattr(PretendedGraph, "replay", twice)
    assert_same(train("lenet"), plain)
    assert "steps without a CUDA graph" in (printed := capsys.readouterr().out)
    assert "a graph made a step that is off by" in printed
    assert len(pretended.replays) == 2  # both of the first step


@pytest.mark.usefixtures("pretended")
def test_without_memory_for_a_graph_steps_are_without_one(monkeypatch, capsys):
    plain = train("lenet")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 50 * 2**30)
    assert_same(train("lenet"), plain)
    assert "(a graph needs 102400 MiB of GPU memory, and 81920 MiB are free)" in capsys.readouterr().out


TOGETHER = [("alexnet", 0), ("alexnet", 1), ("fc2", 0)]


def alone_and_together(of, done=None):
    alone = [relstab.train_network(**arguments, device="cuda") for arguments in of]
    return alone, train_networks(of, "cuda", done)


@pytest.mark.usefixtures("pretended")
def test_networks_trained_together_have_the_weights_that_they_have_alone(monkeypatch):
    """They differ in length, too: the second one has an epoch more. Turns end within epochs."""
    monkeypatch.setattr(together, "_STEPS_PER_TURN", 5)
    of = [arguments(name, seed, epochs=2 + number % 2) for number, (name, seed) in enumerate(TOGETHER)]
    ended = []
    for one, two in zip(*alone_and_together(of, ended.append), strict=True):
        assert_same(one, two)
    assert [str(network.key) for network in ended] == [
        "alexnet, noise 1, seed 0", "fc2, noise 1, seed 0", "alexnet, noise 1, seed 1",
    ]  # fmt: skip


@pytest.mark.usefixtures("pretended")
def test_files_of_networks_trained_together_are_those_of_networks_trained_alone(monkeypatch, tmp_path):
    """As jobs of a run save them: one its own, and one for another job."""
    common = arguments("fc2")
    monkeypatch.setattr(stage, "read_noisy_test", lambda _file: common["test"])

    def save(name, seed, others=()):
        parts = (common[part] for part in ("dataset", "test", "recipe"))
        stage.train_and_save(tmp_path / name, "fc2", *parts, 1.0, seed, 0, "cuda", others=others)
        return contents(tmp_path / name)

    plan = {"rule": "train", "wildcards": {"noise": "1", "seed": "1"}}
    together = save("own.h5", 0, [PlannedNetwork(str(tmp_path / "other.h5"), plan, "", "", "")])
    np.testing.assert_equal(together, save("alone.h5", 0))
    np.testing.assert_equal(contents(early_path(tmp_path / "other.h5")), save("other.h5", 1))


@pytest.mark.usefixtures("pretended")
def test_networks_stopped_together_are_all_saved_and_resumed(monkeypatch, tmp_path):
    """SIGTERM comes in the eighth step of the second network, when the first and the third have done 5."""
    monkeypatch.setattr(together, "_STEPS_PER_TURN", 5)
    of = [
        {**arguments(name, seed, epochs=3), "checkpoints": tmp_path / f"{number}"} for number, (name, seed) in enumerate(TOGETHER)
    ]
    alone = [relstab.train_network(**{**each, "checkpoints": None}, device="cuda") for each in of]
    step = TrainingRun.step

    def terminated(run):
        if run.network.key.seed == 1 and run.step_number == 8:
            signal.raise_signal(signal.SIGTERM)
        step(run)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "step", terminated)
        with pytest.raises(SystemExit, match="143"):
            train_networks(of, "cuda")
    saved = [sorted(path.name for path in (tmp_path / str(number)).rglob("*.h5")) for number in range(3)]
    assert saved == [["step0000000011.h5"], ["step0000000009.h5"], ["step0000000006.h5"]]
    for one, two in zip(alone, train_networks(of, "cuda"), strict=True):
        assert_same(one, two)


@pytest.mark.usefixtures("pretended")
def test_an_error_of_one_network_lets_the_others_end():
    """The first one diverges, and the second one cannot be saved."""
    of = [arguments("fc2", seed) for seed in range(3)]
    of[0]["recipe"] = of[0]["recipe"].model_copy(update={"learning_rate": 1e30})
    ended = []

    def save(network):
        ended.append(network.key.seed)
        if network.key.seed == 1:
            raise OSError("the disk is full")

    with pytest.raises(FloatingPointError, match="fc2 at noise 1, seed 0"):
        train_networks(of, "cuda", save)
    assert ended == [1, 2]


def test_on_a_cpu_networks_are_trained_one_after_the_other():
    of = [arguments("fc2", seed) for seed in range(2)]
    ended = []
    for each, network in zip(of, train_networks(of, "cpu", ended.append), strict=True):
        assert_same(network, relstab.train_network(**each, device="cpu"))
    assert [network.key.seed for network in ended] == [0, 1]


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# On a real GPU: wider, and 500 images, which are 7 batches and one of 52 per pass.
WIDE = {"epochs": 3, "batch_size": 64, "width": 0.5}


@pytest.fixture
def replays(monkeypatch):
    """One entry per replayed graph of a real GPU."""
    found = []
    capture = graph_module.capture

    def counted(*arguments):
        replay = capture(*arguments)
        return lambda: (found.append(1), replay())

    monkeypatch.setattr(graph_module, "capture", counted)
    return found


@on_a_gpu
@pytest.mark.parametrize("diffeo_displacement", [0.0, 1.0])
@pytest.mark.parametrize("name", ["lenet", "alexnet", "resnet18", "fc2"])
def test_on_a_gpu_graphs_give_the_weights_of_steps_without(name, diffeo_displacement, replays, tmp_path):
    options = {"recipe": {**WIDE, "diffeo_displacement": diffeo_displacement}, "dataset": data(500)}
    plain = train(name, graphs=False, **options)
    assert not replays
    assert_same(train(name, **options), plain)
    assert len(replays) == (11 if name == "resnet18" else 18)
    interrupted(name, tmp_path, 11, **options)
    assert_same(train(name, checkpoints=tmp_path, **options), plain)


@on_a_gpu
@pytest.mark.parametrize("watched", [True, False])
def test_on_a_gpu_a_graph_that_fails_leaves_no_trace(watched, replays, monkeypatch, capsys):
    """Found before it is recorded, or while it is."""

    def trained(extra, graphs=True):
        monkeypatch.setattr(train_module, "build_model", lambda *_: Own(extra))
        return train("lenet", graphs, recipe=WIDE, dataset=data(500))

    plain = trained(lambda _: None, graphs=False)
    capsys.readouterr()
    if not watched:
        monkeypatch.setattr(graph_module, "watch", lambda step, _model: step() or "")
    found = trained(lambda model: float(next(model.parameters()).detach().sum()))
    output = capsys.readouterr().out
    assert not replays
    assert "steps without a CUDA graph" in output
    assert ("the host waits for the device in line" in output) == watched
    assert_same(found, plain)
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    assert_same(trained(lambda _: None), plain)
    assert replays


@on_a_gpu
@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg11_bn"])
def test_on_a_gpu_networks_trained_together_have_the_weights_that_they_have_alone(name, replays):
    of = [{**arguments(name, seed, **WIDE), "dataset": data(500)} for seed in range(4)]
    for one, two in zip(*alone_and_together(of), strict=True):
        assert_same(one, two)
    assert replays
