import dataclasses
import math
import shutil

import h5py
import numpy as np
import pytest
import torch
from pretended_cuda import pretended_cuda

import relstab
from relstab.architectures import ARCHITECTURES
from relstab.config import Training
from relstab.files.dataset import normalisation, normalise, read_dataset
from relstab.files.network import HISTORY
from relstab.runs.devices import choose_precision
from relstab.stages.datasets import prepare_dataset
from relstab.training import training_run as run_module
from relstab.training.augmentation import crop_and_flip
from relstab.training.learning_rate import learning_rate
from relstab.training.train import _initialise, _optimizer, _precision
from relstab.training.training_run import TrainingRun, classification_error, snapshot_epochs


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "mnist5k.h5"
    prepare_dataset(path, "mnist5k", train_images=400, test_images=200)
    return read_dataset(path)


@pytest.fixture(scope="module")
def test_images(digits):
    return normalise(torch.from_numpy(digits.images["test"]), digits), torch.from_numpy(digits.labels["test"])


QUICK = Training(epochs=2, batch_size=50, learning_rate=0.02, schedule_fraction=0.8, crop_padding=2, width=0.25)


def test_the_cosine_falls_to_zero_over_its_share_of_the_epochs_and_rises_again():
    recipe = Training(epochs=10, learning_rate=0.4, schedule_fraction=0.5)
    rates = [learning_rate(step, 4, recipe) for step in range(40)]
    assert rates[0] == 0.4
    assert rates[10] == pytest.approx(0.2)
    assert rates[5] == pytest.approx(0.4 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[20] == 0
    np.testing.assert_allclose(rates[21:], rates[19:0:-1])


def test_the_schedule_of_the_reference_is_that_of_torch():
    """CosineAnnealingLR with T_max = 0.8 epochs, stepped on to the end: 0 after epoch 200 of 250, and 0.0141 in the last one.

    torch's learning rate is ours at the start of an epoch. The cosine to the end, the default, ends at 4e-6 instead.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=0.8 * 250)
    expected = []
    for _ in range(250):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    recipe = Training(epochs=250, learning_rate=0.1, schedule_fraction=0.8)
    found = [learning_rate(390 * epoch, 390, recipe) for epoch in range(250)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    assert found[-1] == pytest.approx(0.0141, abs=5e-5)
    assert found[200] == 0
    assert learning_rate(390 * 249, 390, Training(epochs=250, learning_rate=0.1)) == pytest.approx(3.9e-6, rel=0.02)


def test_warm_up_rises_and_a_constant_rate_stays():
    recipe = Training(epochs=10, learning_rate=0.4, schedule="constant", warmup_epochs=2)
    rates = [learning_rate(step, 4, recipe) for step in range(40)]
    np.testing.assert_allclose(rates[:8], 0.4 * np.arange(1, 9) / 9)
    assert rates[8:] == [0.4] * 32
    # Of few epochs it takes half of the schedule: here two steps of four.
    short = Training(epochs=2, learning_rate=0.4, warmup_epochs=2, schedule_fraction=0.5)
    rates = [learning_rate(step, 4, short) for step in range(8)]
    np.testing.assert_allclose(rates, [0.4 / 3, 0.8 / 3, 0.4, 0.2, 0, 0.2, 0.4, 0.2], atol=1e-15)


def test_only_matrices_decay():
    model = relstab.build_model("vgg11_bn", (1, 28, 28), 10, 0.1)
    decaying, others = _optimizer(model, Training(weight_decay=0.1)).param_groups
    assert decaying["weight_decay"] == 0.1
    assert others["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decaying["params"])
    assert all(parameter.ndim == 1 for parameter in others["params"])
    assert len(decaying["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_weight_decay_reaches_matrices_alone():
    """Ten steps without a gradient at learning rate 0.1 and weight decay 0.5 leave (1 - 0.05)^10 = 0.599 of weights alone."""
    model = relstab.build_model("vgg11_bn", (1, 28, 28), 10, 0.05)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = _optimizer(model, Training(learning_rate=0.1, momentum=0.0, weight_decay=0.5))
    for _ in range(10):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] * (0.95**10 if value.ndim > 1 else 1), msg=name)


def test_crops_are_shifts_into_padding_and_flips_are_mirrors(generator):
    images = torch.randint(1, 256, (64, 2, 6, 6), dtype=torch.uint8, generator=generator)
    padded = torch.nn.functional.pad(images, [2] * 4)
    crops = crop_and_flip(images, 2, True, generator)
    assert crops.shape == images.shape
    assert crops.dtype == torch.uint8
    seen = set()
    for crop, source in zip(crops, padded, strict=True):
        for flip in (False, True):
            for row in range(5):
                for col in range(5):
                    # A flipped crop is the mirrored window.
                    window = source[:, row : row + 6, col : col + 6]
                    if torch.equal(crop, window.flip(2) if flip else window):
                        seen.add((flip, row, col))
    assert {flip for flip, _, _ in seen} == {False, True}
    assert {row for _, row, _ in seen} == set(range(5))
    assert {col for _, _, col in seen} == set(range(5))
    assert torch.equal(crop_and_flip(images, 0, False, generator), images)


def test_every_crop_is_some_window(generator):
    images = torch.randint(1, 256, (30, 1, 5, 5), dtype=torch.uint8, generator=generator)
    padded = torch.nn.functional.pad(images, [1] * 4)
    for crop, source in zip(crop_and_flip(images, 1, False, generator), padded, strict=True):
        windows = [source[:, r : r + 5, c : c + 5] for r in range(3) for c in range(3)]
        assert any(torch.equal(crop, window) for window in windows)


def test_a_network_learns_and_is_what_it_says(digits, test_images, tmp_path):
    recipe = QUICK.model_copy(update={"epochs": 15, "batch_size": 20, "learning_rate": 0.02, "width": 1.0})
    network = relstab.train_network("lenet", digits, test_images, recipe, sigma=0, seed=0, device="cpu")
    errors = [row["test_error"] for row in network.history]
    assert network.chance_error == 0.9
    assert errors[-1] < 0.2
    assert network.history[-1]["train_loss"] < 0.3 * network.history[0]["train_loss"]
    relstab.save_network(tmp_path / "net.h5", network)
    for state, error in (("last", errors[-1]), ("best", min(errors))):
        assert classification_error(relstab.load_network(tmp_path / "net.h5", state), *test_images) == error
    with h5py.File(tmp_path / "net.h5") as file:
        assert file["history/epoch"][:].tolist() == list(range(1, 16))
        assert list(file["history"]) == sorted(HISTORY)
        assert file.attrs["architecture"] == "lenet"
        assert '"learning_rate": 0.02' in file.attrs["parameters"]
    with pytest.raises(ValueError, match=r"expected one of the states 'init', 'best', 'last' of .*net.h5, got 'middle'"):
        relstab.load_network(tmp_path / "net.h5", "middle")


def states_of(network):
    return {f"{state}/{name}": value for state in network.states for name, value in network.states[state].items()}


@pytest.mark.parametrize("architecture", ["fc2", "vgg11_bn"])
def test_the_same_seed_gives_the_same_weights_whatever_ran_before(digits, test_images, architecture):
    recipe = QUICK.model_copy(update={"width": 0.05})
    first = relstab.train_network(architecture, digits, test_images, recipe, 5.0, 1, device="cpu")
    torch.manual_seed(99)
    torch.rand(10)
    before = torch.get_rng_state()
    again = relstab.train_network(architecture, digits, test_images, recipe, 5.0, 1, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in states_of(first).items():
        assert torch.equal(value, states_of(again)[name]), name
    assert first.history == again.history
    for other in ({"seed": 2, "sigma": 5.0}, {"seed": 1, "sigma": 6.0}):
        different = relstab.train_network(architecture, digits, test_images, recipe, device="cpu", **other)
        assert not torch.equal(next(iter(different.states["init"].values())), next(iter(first.states["init"].values())))


def test_statistics_at_initialization_are_those_of_training_images(digits, test_images):
    """Batch norm of the first layer, at initialization, gives activations of mean 0 and variance 1 on training images."""
    recipe = QUICK.model_copy(update={"epochs": 1, "batch_size": 400})
    network = relstab.train_network("vgg11_bn", digits, test_images, recipe, 0, 0, device="cpu")
    model = relstab.build_model("vgg11_bn", (1, 28, 28), 10, QUICK.width)
    model.load_state_dict(network.states["init"])
    images = normalise(torch.from_numpy(digits.images["train"]), digits)
    activations = model.eval().features[:2](images).detach().transpose(0, 1).flatten(1)
    # 250 of the 400 images were used.
    assert activations.mean(1).abs().max() < 0.1
    torch.testing.assert_close(activations.var(1), torch.ones(len(activations)), rtol=0.15, atol=0)


def test_he_initialization_keeps_the_second_moment():
    """Through vgg11, He's weights keep activations of order one where torch's own let them die out."""
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scale = {}
    for name in ("default", "he"):
        torch.manual_seed(0)
        model = relstab.build_model("vgg11", (3, 32, 32), 10).eval()
        _initialise(model, name)
        with torch.no_grad():
            scale[name] = float(model(x).std(0).mean())
    assert scale["he"] > 0.1
    assert scale["default"] < 0.01 * scale["he"]


def test_a_loss_that_is_not_finite_stops_with_advice(digits, test_images):
    recipe = QUICK.model_copy(update={"learning_rate": 1e18})
    with pytest.raises(FloatingPointError, match=r"loss of lenet at noise 0, seed 3, became (nan|inf) in epoch 1 .*lenet"):
        relstab.train_network("lenet", digits, test_images, recipe, 0, 3, device="cpu")


def test_too_little_memory_says_which_batch_fits(digits, test_images, monkeypatch):
    """A network that takes at most 20 images at a time, as on a small GPU."""
    from relstab.training import train as training

    build = training.build_model

    def small(*arguments):
        def refuse(_module, inputs):
            if len(inputs[0]) > 20 and torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        model = build(*arguments)
        model.register_forward_pre_hook(refuse)
        return model

    monkeypatch.setattr(training, "build_model", small)
    with pytest.raises(
        MemoryError, match=r"batches of 50 images do not fit into the memory of cpu, 12 images do .*lenet.batch_size"
    ):
        relstab.train_network("lenet", digits, test_images, QUICK, 0, 0, device="cpu")


def test_one_image_that_is_left_over_is_left_out(digits, test_images):
    """400 images in batches of 57 leave one, on which batch norm after the last pooling has no statistics."""
    recipe = QUICK.model_copy(update={"epochs": 1, "batch_size": 57, "width": 0.05})
    network = relstab.train_network("vgg11_bn", digits, test_images, recipe, 0, 0, device="cpu")
    assert int(network.states["last"]["features.1.num_batches_tracked"]) == 7


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fused_steps_in_channels_last_are_the_plain_ones(optimizer):
    """Two routes to one result: torch's fused optimizer through strided memory, and its loop over tensors."""
    recipe = Training(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
    steps = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = relstab.build_model("lenet", (3, 32, 32), 10).to(memory_format=torch.channels_last)
        steps.append(_optimizer(model, recipe))
        if not fused:
            for group in steps[-1].param_groups:
                group.update(fused=False, foreach=False)
        for _ in range(3):
            steps[-1].zero_grad()
            images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
            model(images).square().sum().backward()
            steps[-1].step()
    for one, two in zip(*(step.param_groups[0]["params"] for step in steps), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_precision_is_of_products_alone(digits, test_images):
    weights = {}
    for precision in ("float32", "bfloat16"):
        recipe = QUICK.model_copy(update={"precision": precision, "epochs": 1})
        network = relstab.train_network("lenet", digits, test_images, recipe, 0, 0, device="cpu")
        assert network.precision == precision
        assert {value.dtype for value in network.states["last"].values()} == {torch.float32}
        weights[precision] = network.states["last"]["classifier.1.weight"]
    difference = (weights["float32"] - weights["bfloat16"]).norm() / weights["float32"].norm()
    assert 0 < difference < 0.01


def test_snapshots_are_log_spaced_and_hold_the_weights_of_their_epoch(digits, test_images, tmp_path):
    assert snapshot_epochs(250, 8) == [1, 2, 5, 11, 23, 52, 114, 250]
    assert snapshot_epochs(250, 0) == []
    assert snapshot_epochs(3, 100) == [1, 2, 3]
    assert snapshot_epochs(1, 5) == [1]
    recipe = QUICK.model_copy(update={"epochs": 4, "snapshots": 3})
    network = relstab.train_network("lenet", digits, test_images, recipe, 0, 0, device="cpu")
    assert network.snapshots == [1, 2]  # the last epoch is kept anyway
    relstab.save_network(tmp_path / "net.h5", network)
    for epoch in (1, 2):
        error = classification_error(relstab.load_network(tmp_path / "net.h5", f"epoch{epoch}"), *test_images)
        assert error == network.history[epoch - 1]["test_error"]
    # Keeping them changes nothing else.
    plain = relstab.train_network("lenet", digits, test_images, recipe.model_copy(update={"snapshots": 0}), 0, 0, device="cpu")
    assert plain.history == network.history
    assert "epoch1" not in plain.states


def test_diffeomorphisms_deform_the_training_images(digits):
    """The batch of a run is its images, normalised, under the diffeomorphism that its generator gives."""

    def batch(displacement):
        recipe = QUICK.model_copy(update={"crop_padding": 0, "diffeo_displacement": displacement})
        run = object.__new__(TrainingRun)
        run.recipe, run.dataset, run.sigma = recipe, digits, 0.0
        run.normalisation = normalisation(digits, "cpu")
        run.images, run.labels = torch.from_numpy(digits.images["train"]), torch.from_numpy(digits.labels["train"])
        run.generator = torch.Generator().manual_seed(3)
        return run.batch(torch.arange(10, 30))

    plain, labels = batch(0.0)
    torch.testing.assert_close(plain, normalise(torch.from_numpy(digits.images["train"][10:30]), digits))
    assert labels.tolist() == digits.labels["train"][10:30].tolist()
    deformed, _ = batch(0.7)
    torch.testing.assert_close(deformed, relstab.deform(plain, 0.7, 3, generator=torch.Generator().manual_seed(3)))
    assert (deformed - plain).norm() > 0.1 * plain.norm()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_is_the_same(digits, test_images):
    recipe = QUICK.model_copy(update={"epochs": 1, "precision": "float32"})
    plain, compiled = (
        relstab.train_network("fc2", digits, test_images, recipe.model_copy(update={"compile": compile_}), 0, 0, device="cpu")
        for compile_ in (False, True)
    )
    assert plain.states["last"].keys() == compiled.states["last"].keys()
    for name, value in plain.states["last"].items():
        torch.testing.assert_close(compiled.states["last"][name], value, rtol=1e-3, atol=1e-5)


def test_a_network_that_torch_cannot_compile_is_named(digits, test_images, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def compiled(*_arguments, **_options):
        def forward(_batch):
            raise TorchDynamoException("backend='inductor' raised:\nRuntimeError: Failed to find C compiler.\n\nSet TORCH_LOGS")

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    message = r"on fc2 \(backend='inductor' raised: RuntimeError: Failed to find C compiler.\): set recipes.fc2.compile: false$"
    with pytest.raises(RuntimeError, match=message):
        relstab.train_network("fc2", digits, test_images, QUICK.model_copy(update={"compile": True}), 0, 0, device="cpu")


def two_digits(digits):
    """Zeros and ones among the digits."""
    parts = {part: digits.labels[part] < 2 for part in ("train", "test")}
    images = {part: digits.images[part][chosen] for part, chosen in parts.items()}
    return dataclasses.replace(
        digits, images=images, labels={part: digits.labels[part][chosen] for part, chosen in parts.items()}
    )


def test_hinge_loss_trains_one_output_whose_sign_is_the_class(digits, tmp_path):
    pair = two_digits(digits)
    test = normalise(torch.from_numpy(pair.images["test"]), pair), torch.from_numpy(pair.labels["test"])
    recipe = QUICK.model_copy(update={"loss": "hinge", "epochs": 6, "batch_size": 10, "width": 1.0})
    network = relstab.train_network("lenet", pair, test, recipe, sigma=0, seed=0, device="cpu")
    assert network.classes == 1
    assert network.history[-1]["test_error"] < 0.1
    relstab.save_network(tmp_path / "net.h5", network)
    model = relstab.load_network(tmp_path / "net.h5")
    with torch.no_grad():
        outputs = model(test[0])
    assert outputs.shape == (len(test[0]), 1)
    wrong = ((outputs[:, 0] > 0).long() != test[1]).double().mean()
    assert classification_error(model, *test) == pytest.approx(float(wrong)) == network.history[-1]["test_error"]


def test_the_hinge_loss_is_its_formula():
    """max(0, 1 - y f(x)), y = +1 for class 1 and -1 for class 0."""
    outputs = torch.tensor([[2.0], [0.3], [-0.4], [-3.0]])
    target = torch.tensor([1, 0, 1, 0])
    recipe = QUICK.model_copy(update={"loss": "hinge"})
    run = object.__new__(TrainingRun)
    run.recipe, run.forward, run.device, run.dtype = recipe, lambda _: outputs, torch.device("cpu"), torch.float32
    expected = (0 + 1.3 + 1.4 + 0) / 4
    assert float(TrainingRun.loss(run, outputs, target)) == pytest.approx(expected)


def test_hinge_loss_is_for_two_classes(digits, test_images):
    recipe = QUICK.model_copy(update={"loss": "hinge"})
    with pytest.raises(
        ValueError,
        match=r"expected two classes .* got the 10 classes of mnist5k \(config.yaml: training.loss\)",
    ):
        relstab.train_network("lenet", digits, test_images, recipe, sigma=0, seed=0, device="cpu")


def weights_of(network):
    return {f"{state}/{name}": tensor for state, tensors in network.states.items() for name, tensor in tensors.items()}


def test_epochs_counted_in_steps_are_those_of_passes_where_the_steps_are_the_same(digits, test_images):
    """400 images in batches of 48 are 9 steps per pass, the last of them smaller."""
    recipe = QUICK.model_copy(update={"batch_size": 48, "snapshots": 2, "epochs": 3})
    passes = relstab.train_network("lenet", digits, test_images, recipe, 1.0, 0, device="cpu")
    steps = relstab.train_network(
        "lenet", digits, test_images, recipe.model_copy(update={"steps_per_epoch": 9}), 1.0, 0, device="cpu"
    )
    assert steps.history == passes.history
    counted = weights_of(steps)
    for name, value in weights_of(passes).items():
        assert torch.equal(counted[name], value), name


def test_networks_of_all_sizes_have_the_steps_of_all_images(digits, test_images, monkeypatch):
    """As in the reference, where P images are passed over as often as all images, times all images over P."""
    drawn, batch = [], TrainingRun.batch
    monkeypatch.setattr(TrainingRun, "batch", lambda run, chosen: drawn.append(len(chosen)) or batch(run, chosen))
    recipe = QUICK.model_copy(update={"batch_size": 48, "epochs": 1})
    for size, batches in ((20, [20] * 9), (100, [48, 48, 4] * 3)):
        few = dataclasses.replace(
            digits,
            images=digits.images | {"train": digits.images["train"][:size]},
            labels=digits.labels | {"train": digits.labels["train"][:size]},
            training_images=size,
            available_images=400,
        )
        relstab.train_network("lenet", few, test_images, recipe, 0.0, 0, device="cpu")
        assert drawn == batches
        drawn.clear()


def test_passes_go_on_across_epochs_that_are_counted_in_steps(digits, test_images, monkeypatch):
    """Of 20 images in batches of 8, 3 steps per pass; 3 epochs of 5 steps are 5 passes, and 3 tests."""
    few = dataclasses.replace(
        digits,
        images=digits.images | {"train": digits.images["train"][:20]},
        labels=digits.labels | {"train": np.arange(20) % 10},
        training_images=20,
    )
    drawn, batch = [], TrainingRun.batch

    def record(run, chosen):
        drawn.append(chosen.tolist())
        return batch(run, chosen)

    monkeypatch.setattr(TrainingRun, "batch", record)
    recipe = QUICK.model_copy(update={"batch_size": 8, "epochs": 3, "steps_per_epoch": 5})
    network = relstab.train_network("lenet", few, test_images, recipe, 0.0, 0, device="cpu")
    assert [len(chosen) for chosen in drawn] == [8, 8, 4] * 5
    passes = [[*drawn[start], *drawn[start + 1], *drawn[start + 2]] for start in range(0, 15, 3)]
    assert all(sorted(order) == list(range(20)) for order in passes)
    assert len({tuple(order) for order in passes}) == 5
    assert [row["epoch"] for row in network.history] == [1, 2, 3]
    assert network.key.as_dict()["training_images"] == 20
    assert network.key.path == "mnist5k/lenet/noise0_images20/seed0"


def test_on_a_gpu_errors_are_in_bfloat16_unless_the_weights_are_kept(monkeypatch):
    """Epochs 1 and 3 have the lowest error so far, 2 is a snapshot, and 4 is neither. On a CPU all errors are in float32."""
    low, high = torch.bfloat16, torch.float32
    epoch, seen = 0, []

    def measured(_model, _images, _labels, _size, _between, dtype):
        seen.append((epoch, dtype))
        return {1: 0.5, 2: 0.6, 3: 0.4, 4: 0.4}[epoch]

    monkeypatch.setattr(run_module, "classification_error", measured)
    run = object.__new__(TrainingRun)
    run.dtype, run.recipe, run.model, run.test_images, run.test_labels = low, QUICK, None, None, None
    for device, expected in (
        ("cuda", [(1, low), (1, high), (2, high), (3, low), (3, high), (4, low)]),
        ("cpu", [(1, high), (2, high), (3, high), (4, high)]),
    ):
        seen.clear()
        run.device, run.lowest = torch.device(device), 1.0
        for epoch in (1, 2, 3, 4):
            run.lowest = min(run.lowest, run.test_error(lambda: None, decisive=epoch == 2))
        assert seen == expected


def test_an_error_is_in_the_precision_it_says_and_waits_once_for_the_device(generator):
    images, labels = torch.randn(50, 3, 8, 8, generator=generator), torch.arange(50) % 10
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    dtypes = set()
    model.register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))
    expected = float((model(images).argmax(1) != labels).double().mean())
    for dtype in (torch.float32, torch.bfloat16):
        dtypes.clear()
        assert classification_error(model, images, labels, 20, dtype=dtype) == pytest.approx(expected, abs=0.05)
        assert dtypes == {dtype}
    with pretended_cuda() as device:
        assert classification_error(model.cuda(), images.cuda(), labels.cuda(), 20) == expected
        assert device.waits.total() == 1


def test_networks_that_a_gpu_runs_faster_than_it_launches_them_are_in_float32():
    devices = [torch.device(name) for name in ("cuda", "cpu")]
    with pretended_cuda():
        for name, architecture in ARCHITECTURES.items():
            on_cuda, on_cpu = (_precision(name, "auto", device) for device in devices)
            assert on_cuda == (torch.float32 if name.startswith(("fc", "lenet")) else torch.bfloat16)
            assert on_cpu == choose_precision("auto", devices[1])
            assert _precision(name, "bfloat16", devices[0]) == torch.bfloat16
            assert architecture.launch_bound == name.startswith(("fc", "lenet"))
