"""What runs on a GPU, on a pretended one: where tensors are, what the host waits for, and what a checkpoint holds."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from pretended_cuda import CUDA, pretended_cuda
from torch import nn
from torch.nn import functional

import relstab
from relstab.architectures import ARCHITECTURES
from relstab.config import Training
from relstab.files.dataset import Dataset
from relstab.perturbations import KINDS
from relstab.probes import VERSIONS
from relstab.scale_detection.design import EnsembleRecipe, SimpleDesign
from relstab.scale_detection.ensemble_steps import EnsembleSteps
from relstab.scale_detection.ensemble_training import train_ensemble
from relstab.scale_detection.measurement import measure_ensemble
from relstab.scale_detection.tasks import ScaleTask, split_pairs
from relstab.training.training_run import TrainingRun


def noise_images(count=24):
    rng = np.random.default_rng(0)
    images = {part: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for part, n in (("train", count), ("test", 10))}
    labels = {part: np.arange(len(values)) % 10 for part, values in images.items()}
    return Dataset("noise", images, labels, np.full(3, 0.5, np.float32), np.full(3, 0.29, np.float32))


def small_network():
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
        step, _, state = small_network()
        with device.refusing():
            for _ in range(9):
                step()
        expected = state()
    with pretended_cuda() as device:
        step, generator, state = small_network()
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
            return relstab.train_network(
                name, noise_images(), test, recipe, 1.0, 0, device="cuda", checkpoints=checkpoints, checkpoint_minutes=0
            )

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


def test_a_data_set_that_is_too_large_for_the_gpu_is_named():
    data = noise_images(3000)
    test = torch.randn(10, 3, 32, 32), torch.arange(10)
    message = r"expected the images of noise \(0.0 GiB\) to fit into the memory of cuda, .* free: fewer or smaller images"
    with pretended_cuda(memory=data.images["train"].nbytes - 1), pytest.raises(MemoryError, match=message):
        relstab.train_network("fc2", data, test, Training(epochs=1), 1.0, 0, device="cuda")


def random_images(count=6):
    return torch.randn(count, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_norm", ["running", "per_version"])
def test_measuring_on_the_gpu_gives_the_same(batch_norm, tmp_path):
    """Of probes on either device, with kept activations; in equal batches, since standard errors depend on them."""
    torch.manual_seed(0)
    convolutions = (
        nn.Conv2d(3, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.BatchNorm2d(4),
    )
    model = nn.Sequential(*convolutions, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)).double()
    probes = relstab.make_probes(random_images(), generator=torch.Generator().manual_seed(0))
    relstab.estimate_batch_statistics(model, probes.images)
    options = {"batch_size": 2, "batch_norm": batch_norm}
    expected = relstab.measure_sensitivity(model, probes, **options)
    with pretended_cuda():
        model = model.cuda()
        relstab.estimate_batch_statistics(model, probes.images.cuda())
        there = relstab.Probes(*(getattr(probes, version).cuda() for version in VERSIONS))
        for part in (probes, there, [there[:4], there[4:]]):
            table = relstab.measure_sensitivity(model, part, keep_activations=tmp_path / "kept.h5", **options)
            columns = ["D", "G", "R", "denominator"] if isinstance(part, list) else table.columns[2:]
            np.testing.assert_allclose(table[columns].to_numpy(float), expected[columns].to_numpy(float), rtol=1e-9)


@pytest.mark.parametrize("on", ["cpu", "cuda", None])
def test_perturbations_take_generators_of_any_device(on):
    def generator():
        return torch.Generator(on).manual_seed(0) if on else None

    with pretended_cuda():
        images = random_images(3).cuda()
        for interpolation in ("bilinear", "nearest", "gaussian"):
            probes = relstab.make_probes(images, 1.0, 3, interpolation, generator())
            assert all(getattr(probes, version).device == CUDA for version in VERSIONS)
        assert relstab.add_noise(images, 1.0, generator()).device == CUDA
        fields = torch.ones(3, 32, 32), torch.zeros(3, 32, 32)  # on the CPU
        moved = relstab.warp(images, *fields)[..., 1:]
        torch.testing.assert_close(moved.cpu(), images[..., :-1].cpu())
        for kind in KINDS:
            assert relstab.perturb(images, kind, 0.5, generator()).device == CUDA, kind
        model = relstab.build_model("lenet", (3, 32, 32), 10, 0.5).double().cuda()
        table = relstab.measure_perturbations(model, images, ["rotation", "noise"], generator=generator(), batch_size=2)
        assert table["S"].notna().all()


def test_spectra_of_filters_on_the_gpu_are_those_of_a_cpu():
    filters = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = relstab.filter_spectrum(filters)
    with pretended_cuda():
        torch.testing.assert_close(relstab.filter_spectrum(filters.cuda()).cpu(), expected)


def test_shuffled_channels_are_those_of_a_cpu():
    """Of ordinary convolutions and of depthwise ones, which are shuffled by hooks."""
    for name in ("vgg11_bn", "efficientnet_b0"):
        torch.manual_seed(0)
        model = relstab.build_model(name, (3, 32, 32), 10, 0.1).double().eval()
        images = random_images(2)
        expected = relstab.shuffle_channels(model, "both")(images)
        with pretended_cuda():
            model = model.cuda()
            outputs = relstab.shuffle_channels(model, "both")(images.cuda())
            np.testing.assert_allclose(outputs.cpu().detach(), expected.detach(), rtol=1e-9)


@pytest.mark.parametrize(("stride", "filter_size"), [(2, 2), (2, 3), (1, 3)])
def test_ensembles_train_and_are_measured_as_on_a_cpu(stride, filter_size, monkeypatch, tmp_path):
    """Members that end at different epochs, with weight decay; from a checkpoint in mid-epoch, too. Steps wait for nothing."""
    task = ScaleTask("distance", 16, 4, gap=1)
    train, test = split_pairs(task.enumerate(), 16)
    design = SimpleDesign(2, filter_size, stride, 4)
    recipe = EnsembleRecipe(epochs=4, decay_epochs=1, weight_decay=0.05, learning_rate=0.1)

    def train_it(device, **options):
        return train_ensemble(task, train, design, recipe, range(2), device=device, **options)

    expected = train_it("cpu")
    figures = measure_ensemble(expected, test, 6, device="cpu")
    step, steps = EnsembleSteps.step, itertools.count(1)

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)  # there are graphs
    with pretended_cuda() as device:

        def interrupted(*arguments):
            if next(steps) == 4:
                raise KeyboardInterrupt
            with device.refusing():
                step(*arguments)

        monkeypatch.setattr(EnsembleSteps, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_it("cuda", checkpoints=tmp_path, checkpoint_minutes=0)
        trained = train_it("cuda", checkpoints=tmp_path)
        found = measure_ensemble(trained, test, 6, device="cuda")
    for state, parameters in expected.states.items():
        for key, value in parameters.items():
            assert torch.equal(value, trained.states[state][key]), (state, key)
    pd.testing.assert_frame_equal(found, figures, rtol=1e-9)
