"""What only a real GPU can show: its kernels repeat their bits and give the numbers of a CPU.

Where tensors are and what the host waits for is tested without one, in test_pretended_cuda.py.
"""

import contextlib

import numpy as np
import pytest
import torch
from torch.nn import functional

import relstab
from relstab.architectures import ARCHITECTURES
from relstab.config import Training
from relstab.files.dataset import Dataset
from relstab.perturbations import KINDS
from relstab.probes import VERSIONS
from relstab.runs.devices import occupied_device, repeatable
from relstab.scale_detection.ensemble_training import EnsembleRecipe, train_ensemble
from relstab.scale_detection.measurement import measure_ensemble
from relstab.scale_detection.simple_cnn import SimpleDesign
from relstab.scale_detection.tasks import ScaleTask, split_pairs
from relstab.training.checkpointer import Checkpointer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@contextlib.contextmanager
def tf32_wherever_torch_has_it():
    """As users set it for speed."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def noise_images():
    """112 training images: batches of 32, and 16 at the end of an epoch."""
    rng = np.random.default_rng(0)
    images = {part: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for part, n in (("train", 112), ("test", 50))}
    labels = {part: np.arange(len(values)) % 10 for part, values in images.items()}
    return Dataset("noise", images, labels, np.full(3, 0.5, np.float32), np.full(3, 0.29, np.float32))


def random_images(count=12, dtype=torch.float64):
    return torch.randn(count, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_twice_and_from_a_checkpoint_gives_the_same_weights(name, precision, monkeypatch, tmp_path):
    """Bit for bit, on one card with one torch. The checkpoint is from the middle of the second epoch."""
    if precision == "float32" and name not in ("fc4", "lenet", "alexnet", "resnet18"):
        pytest.skip("float32 takes one architecture of each kind")
    common = {"epochs": 2, "batch_size": 32, "width": 0.5, "crop_padding": 4, "flip": True, "snapshots": 2}
    recipe = Training(**{**ARCHITECTURES[name].recipe, **common, "precision": precision})
    test = torch.randn(50, 3, 32, 32), torch.arange(50) % 10
    maybe_save = Checkpointer.maybe_save

    def interrupted(checkpointer):
        if (checkpointer.run.epoch.number, checkpointer.run.epoch.position) == (2, 2):
            checkpointer.seconds = 0
            maybe_save(checkpointer)
            raise KeyboardInterrupt

    def train(**options):
        network = relstab.train_network(name, noise_images(), test, recipe, 1.0, 0, device="cuda", **options)
        return {(state, key): value for state, kept in network.states.items() for key, value in kept.items()}, network.history

    once, history = train()
    twice, _ = train()
    monkeypatch.setattr(Checkpointer, "maybe_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoints=tmp_path)
    monkeypatch.undo()
    resumed, resumed_history = train(checkpoints=tmp_path)
    assert all(bool(value.isfinite().all()) for value in once.values())
    assert [key for key in once if not torch.equal(once[key], twice[key])] == []
    assert [key for key in once if not torch.equal(once[key], resumed[key])] == []
    assert history == resumed_history


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_measuring_gives_the_numbers_of_a_cpu(name, dtype, tolerance):
    """In equal batches, since standard errors depend on them; with TF32 allowed, which would miss by a part in a thousand."""
    torch.manual_seed(0)
    model = relstab.build_model(name, (3, 32, 32), 10, 0.25).to(dtype)
    probes = relstab.make_probes(random_images(dtype=dtype), generator=torch.Generator().manual_seed(0))
    relstab.estimate_batch_statistics(model, probes.images)
    expected = relstab.measure_sensitivity(model, probes, batch_size=4)
    with tf32_wherever_torch_has_it():
        table = relstab.measure_sensitivity(model.cuda(), probes, batch_size=4)
    numbers = table.columns[2:]
    np.testing.assert_allclose(table[numbers].to_numpy(float), expected[numbers].to_numpy(float), rtol=tolerance)


def test_float32_is_exact_where_tf32_is_not():
    """The first also shows that this card has TF32: without it, the test above would show nothing."""
    images, filters = torch.randn(8, 64, 16, 16, device="cuda"), torch.randn(64, 64, 3, 3, device="cuda")
    matrix = torch.randn(512, 512, device="cuda")

    def errors():
        convolved, product = functional.conv2d(images, filters), matrix @ matrix
        exact = functional.conv2d(images.double(), filters.double()), matrix.double() @ matrix.double()
        pairs = zip((convolved, product), exact, strict=True)
        return [float((value - right).norm() / right.norm()) for value, right in pairs]

    with tf32_wherever_torch_has_it():
        if torch.cuda.get_device_capability() >= (8, 0):
            assert min(errors()) > 5e-5
        with repeatable(torch.device("cuda")):
            assert max(errors()) < 5e-6


def test_perturbations_are_those_of_a_cpu():
    """With a generator on the CPU, whose draws are moved; with one on the GPU they are others, of the same norms."""
    images = random_images()
    expected = relstab.make_probes(images, generator=torch.Generator().manual_seed(0))
    probes = relstab.make_probes(images.cuda(), generator=torch.Generator().manual_seed(0))
    others = relstab.make_probes(images.cuda(), generator=torch.Generator("cuda").manual_seed(0))
    for version in VERSIONS:
        torch.testing.assert_close(getattr(probes, version).cpu(), getattr(expected, version), rtol=1e-9, atol=1e-9)
    for made in (probes, others):
        deformed, noisy = (version - made.images for version in (made.deformed, made.noisy))
        torch.testing.assert_close(deformed.flatten(1).norm(dim=1), noisy.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    for kind in KINDS:
        change = relstab.perturb(images.cuda(), kind, 0.5, torch.Generator("cuda").manual_seed(0)) - images.cuda()
        torch.testing.assert_close(change.flatten(1).norm(dim=1).cpu(), torch.full((12,), 0.5).double(), rtol=1e-3, atol=0)


def test_sensitivity_to_perturbations_is_that_of_a_cpu():
    model = relstab.build_model("vgg11_bn", (3, 32, 32), 10, 0.25).double()
    images = random_images()
    relstab.estimate_batch_statistics(model, images)
    tables = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        kinds = {"moved": relstab.perturb(images, "translation", 0.5, generator).to(device), "noise": "noise"}
        model, generator = model.to(device), torch.Generator().manual_seed(1)
        tables.append(relstab.measure_perturbations(model, images, kinds, 0.5, generator=generator))
    for column in ("S", "ratio", "denominator"):
        np.testing.assert_allclose(tables[1][column], tables[0][column], rtol=1e-8)


def test_shuffled_channels_and_spectra_are_those_of_a_cpu():
    for name in ("vgg11_bn", "efficientnet_b0"):
        model = relstab.build_model(name, (3, 32, 32), 10, 0.25).double().eval()
        images = random_images(4)
        expected = relstab.shuffle_channels(model, "both")(images).detach()
        filters = model.state_dict()[next(key for key, value in model.state_dict().items() if value.ndim == 4)].clone()
        outputs = relstab.shuffle_channels(model.cuda(), "both")(images.cuda()).cpu().detach()
        torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(relstab.filter_spectrum(filters.cuda()).cpu(), relstab.filter_spectrum(filters))


@pytest.mark.parametrize(("stride", "filter_size"), [(2, 2), (1, 3)])
def test_ensembles_repeat_their_bits_and_are_measured_as_on_a_cpu(stride, filter_size):
    task = ScaleTask("distance", 16, 4, gap=1)
    train, test = split_pairs(task.enumerate(), 16)
    design = SimpleDesign(2, filter_size, stride, 32)
    recipe = EnsembleRecipe(epochs=20, decay_epochs=2, weight_decay=0.05, learning_rate=0.1)
    once, twice = (train_ensemble(task, train, design, recipe, range(4), device="cuda") for _ in range(2))
    for state, parameters in once.states.items():
        for key, value in parameters.items():
            assert torch.equal(value, twice.states[state][key]), (state, key)
    tables = []
    for device in ("cpu", "cuda"):
        with tf32_wherever_torch_has_it():
            tables.append(measure_ensemble(once, test, 20, batch_size=10, device=device))
    expected, found = tables
    assert found["test_error"].equals(expected["test_error"])
    for column in ("D", "G", "R", "denominator", "receptive_field"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-4)


def test_a_job_gets_a_card_that_computes():
    with occupied_device("auto") as device:
        assert device.type == "cuda"
        assert float(torch.ones(3, device=device).sum()) == 3
