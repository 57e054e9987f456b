"""The sums that numba compiled, against their definition, those by operations of torch, and float64."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import relstab
from relstab import layer_sums
from relstab.layer_sums import LayerAccumulator, Scratch

pytest.importorskip("numba")
from relstab import compiled_sums as module
from relstab.compiled_sums import compiled_sums

pytestmark = pytest.mark.skipif(not module.is_available(), reason="torch has another OpenMP here")


def accumulated(batches, compiled, **options):
    """Numerators and spread [V + 1, P], and the sums."""
    scratch = Scratch()
    scratch.compiled = compiled_sums if compiled else None
    accumulator = LayerAccumulator("f", "f", scratch, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_sums, "_compiled", lambda: scratch.compiled)
        for batch in batches:
            accumulator.keep(accumulator.add(batch).numpy())
    sums = accumulator.finish()
    return np.stack([*sums.numerators, sums.spread]), sums


def test_sums_are_those_of_their_definition(generator):
    """Small integers, so that every sum is exact: in several blocks, the last one not whole."""
    features, batch = 9001, 4
    rows = torch.randint(-3, 4, (3 * batch, features), generator=generator).float()
    origin, before = torch.randint(-2, 3, (2, features), generator=generator).float()
    clean, deformed, noisy = rows.double().unflatten(0, (3, batch))

    def expected(origin, estimate):
        centred = clean - origin
        changes = [(version - clean).square().sum(1) for version in (deformed, noisy)]
        return torch.stack([centred.square().sum(1), *changes, centred @ estimate])

    for images in (4, 8):
        total = images * before.double()
        values, (square, _) = compiled_sums(rows, batch, origin, total, images=images)
        np.testing.assert_array_equal(values, expected(origin, before.double()))
        assert torch.equal(total, images * before + (clean - origin).sum(0))
        assert square == before.square().sum()
    # Fewer images before than in the batch.
    total = 2 * before.double()
    values, (square, _) = compiled_sums(rows, batch, origin, total, images=2)
    own = (clean - origin).mean(0)
    np.testing.assert_array_equal(values, expected(origin, own))
    assert torch.equal(total, 2 * before + (clean - origin).sum(0))
    assert square == own.square().sum()
    # The first batch.
    mean, total = torch.full((features,), torch.nan), torch.full((features,), torch.nan, dtype=torch.float64)
    values, (square, product) = compiled_sums(rows, batch, mean, total, images=0)
    own = clean.mean(0)
    np.testing.assert_array_equal(values, expected(own, torch.zeros_like(own)))
    assert torch.equal(mean.double(), own)
    assert torch.equal(total, clean.sum(0))
    assert (square, product) == (own.square().sum(), 0)


@pytest.mark.parametrize("perturbations", [1, 2, 4])
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("are_changes", [False, True])
@pytest.mark.parametrize("features", [1, 150, 4500])
def test_sums_are_those_of_operations_of_torch(generator, perturbations, mean, are_changes, features):
    """Batches of unequal size: one larger than those before, and than the images that are added in a row."""
    batches = []
    for images in (3, 20, 4, 1, 9):
        clean = torch.randn(1, images, features, dtype=torch.float64, generator=generator) + mean
        changes = 0.1 * torch.randn(perturbations, images, features, dtype=torch.float64, generator=generator)
        batches.append(torch.cat([clean, changes if are_changes else clean + changes]).flatten(0, 1))
    options = {"perturbations": perturbations, "are_changes": are_changes}
    (ours, sums), (expected, others) = (accumulated(batches, compiled, **options) for compiled in (True, False))
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)
    assert sums.denominator == pytest.approx(others.denominator, rel=1e-11)


def test_float32_is_as_good_as_its_blocks(generator):
    """4,096 squares in float32 on at least four sums side by side: 1e-7 sqrt(1024) = 3e-6 with random rounding, at most 6e-5."""
    batches = [torch.randn(3 * images, 70_000, generator=generator) + 0.3 for images in (5, 40)]
    (ours, sums), (exact, others) = accumulated(batches, True), accumulated([batch.double() for batch in batches], False)
    np.testing.assert_allclose(ours[:2], exact[:2], rtol=5e-6)
    # The spread is a difference of sums; 70,000 is its size.
    np.testing.assert_allclose(ours[2], exact[2], rtol=0, atol=5e-6 * 70_000)
    assert sums.denominator == pytest.approx(others.denominator, rel=5e-6)


def test_layouts_of_memory_do_not_matter(generator):
    whole = torch.randn(12, 300, dtype=torch.float64, generator=generator)
    for rows in (whole[:, 40:200], whole[:, ::2], whole.T[:12, :12], whole[:1].expand(12, 300)):
        ours, sums = accumulated([rows], True)
        expected, others = accumulated([rows], False)
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)
        assert sums.is_constant == others.is_constant


def test_threads_change_no_digit(generator):
    rows = torch.randn(3 * 4, 100_003, generator=generator)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            mean, total = torch.empty(100_003), torch.empty(100_003, dtype=torch.float64)
            batches = [compiled_sums(rows, 4, mean, total, images=images) for images in (0, 4, 2)]
            results.append([mean, total, *(torch.from_numpy(part) for batch in batches for part in batch)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.fixture
def every_width(monkeypatch):
    """Numba for narrow layers, too; counts its calls."""
    calls = []

    def counted(*args, **options):
        calls.append(1)
        return compiled_sums(*args, **options)

    monkeypatch.setattr(layer_sums, "_WIDE", 0)
    monkeypatch.setattr(layer_sums, "_compiled", lambda: counted)
    return calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_networks_have_the_same_table(every_width, monkeypatch, dtype):
    """In channels_last, with a constant layer at the end; float32 within the rounding of its blocks, see above."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(576, 5), nn.Threshold(99, 0))
    model = model.to(dtype, memory_format=torch.channels_last)
    probes = relstab.make_probes(torch.randn(9, 3, 16, 16))
    with pytest.warns(UserWarning, match="rows of NaN"):
        table = relstab.measure_sensitivity(model, probes, batch_size=2)
    assert len(every_width) == 5 * 8  # batches, and layers with input and output
    monkeypatch.setattr(layer_sums, "_compiled", lambda: None)
    with pytest.warns(UserWarning, match="rows of NaN"):
        expected = relstab.measure_sensitivity(model, probes, batch_size=2)
    columns = ["D", "G", "R", "D_sem", "G_sem", "R_sem", "denominator"]
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(table[columns].to_numpy(), expected[columns].to_numpy(), rtol=tolerance, atol=tolerance / 10)


@pytest.mark.usefixtures("every_width")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_activations_that_are_not_finite_name_the_layer(bad):
    """1e30 is too large to square in float32."""
    images = torch.randn(6, 5)
    images[torch.arange(6), 2] = bad
    with pytest.raises(ValueError, match="expected finite activations"):
        relstab.measure_sensitivity(nn.Identity(), relstab.Probes(torch.randn(6, 5), torch.randn(6, 5), images), batch_size=2)


WHICH = """
import sys, torch, relstab
relstab.measure_sensitivity(torch.nn.Identity(), relstab.Probes(*torch.randn(3, 6, int(sys.argv[1]))))
print("numba" in sys.modules)
"""


@pytest.mark.parametrize(("features", "loads"), [(layer_sums._WIDE - 1, "False"), (layer_sums._WIDE, "True")])
def test_numba_is_loaded_for_wide_layers_alone(features, loads):
    answer = subprocess.run([sys.executable, "-c", WHICH, str(features)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == loads


@pytest.fixture
def empty_caches():
    """Whether numba and its code are there is asked again in the test, and again after it."""
    found = layer_sums._compiled, module._parallel, module._compiled
    for function in found:
        function.cache_clear()
    yield
    for function in found:
        function.cache_clear()


@pytest.mark.usefixtures("empty_caches")
class TestElsewhere:
    def test_without_numba(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "relstab.compiled_sums")
        monkeypatch.setitem(sys.modules, "numba", None)
        assert layer_sums._compiled() is None

    def test_numba_is_switched_off_as_its_users_do(self, monkeypatch):
        monkeypatch.setattr(module.numba.config, "DISABLE_JIT", True)
        assert layer_sums._compiled() is None

    def test_where_torch_has_another_openmp(self, monkeypatch):
        def missing(_name):
            raise OSError

        monkeypatch.setattr(module.ctypes, "CDLL", missing)
        assert layer_sums._compiled() is None

    def test_without_a_folder_for_numbas_code(self, monkeypatch, generator):
        cfunc = module.numba.cfunc

        def without_folder(signature, cache=False):
            if cache:
                raise RuntimeError("cannot cache function: no locator available")
            return cfunc(signature)

        monkeypatch.setattr(module.numba, "cfunc", without_folder)
        rows = torch.randn(6, 7, generator=generator)
        values, _ = compiled_sums(rows, 2, None, torch.zeros(7, dtype=torch.float64), images=2)
        np.testing.assert_allclose(values[0], rows[:2].square().sum(1), rtol=1e-6)
