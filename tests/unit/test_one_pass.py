"""The sums in one pass against those by operations of torch, and against float64."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import relstab
from relstab import layer_sums, one_pass
from relstab.layer_sums import LayerAccumulator, Scratch
from relstab.one_pass import OnePass


@pytest.fixture(params=["compiled", "interpreted"])
def kernel(request, monkeypatch):
    """The compiled function, or without numba the same function in Python."""
    if request.param == "interpreted":
        monkeypatch.setattr(one_pass, "_compiled", lambda: one_pass._sum_blocks)
        monkeypatch.setattr(one_pass, "BLOCK", 64)
    else:
        pytest.importorskip("numba")


def accumulated(batches, fast, **options):
    scratch = Scratch()
    scratch.one_pass = OnePass() if fast else None
    accumulator = LayerAccumulator("f", "f", scratch, **options)
    for batch in batches:
        accumulator.keep(accumulator.add(batch).numpy())
    sums = accumulator.finish()
    return np.stack([*sums.numerators, sums.spread]), sums


@pytest.mark.parametrize("perturbations", [1, 2, 4])
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("are_changes", [False, True])
@pytest.mark.usefixtures("kernel")
def test_one_pass_has_the_sums_of_several_passes(generator, perturbations, mean, are_changes):
    """Several blocks, one of them not whole; batches of unequal size, one larger than the images that are added in a row."""
    for features in (1, 150):
        batches = []
        for images in (3, 20, 4, 1):
            clean = torch.randn(1, images, features, dtype=torch.float64, generator=generator) + mean
            changes = 0.1 * torch.randn(perturbations, images, features, dtype=torch.float64, generator=generator)
            batches.append(torch.cat([clean, changes if are_changes else clean + changes]).flatten(0, 1))
        options = {"perturbations": perturbations, "are_changes": are_changes}
        (ours, sums), (expected, others) = (accumulated(batches, fast, **options) for fast in (True, False))
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)
        assert sums.denominator == pytest.approx(others.denominator, rel=1e-11)


def test_float32_is_as_good_as_its_blocks(generator):
    """4,096 squares in float32 on at least four sums side by side: 1e-7 sqrt(1024) = 3e-6 with random rounding, at most 6e-5."""
    pytest.importorskip("numba")
    batches = [torch.randn(3 * images, 70_000, generator=generator) + 0.3 for images in (5, 40)]
    (ours, sums), (exact, others) = accumulated(batches, True), accumulated([batch.double() for batch in batches], False)
    np.testing.assert_allclose(ours[:2], exact[:2], rtol=5e-6)
    # The spread is a difference of sums; 70,000 is its size.
    np.testing.assert_allclose(ours[2], exact[2], rtol=0, atol=5e-6 * 70_000)
    assert sums.denominator == pytest.approx(others.denominator, rel=5e-6)


@pytest.mark.usefixtures("kernel")
def test_layouts_of_memory_do_not_matter(generator):
    whole = torch.randn(12, 300, dtype=torch.float64, generator=generator)
    for rows in (whole[:, 40:200], whole[:, ::2], whole.T[:12, :12], whole[:1].expand(12, 300)):
        ours, sums = accumulated([rows], True)
        expected, others = accumulated([rows], False)
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)
        assert sums.is_constant == others.is_constant


def test_threads_change_no_digit_and_one_thread_starts_no_other(generator, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(one_pass, "_SMALLEST_PART", 1)
    versions = torch.randn(3, 4, 30_000, generator=generator)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            fast, total = OnePass(), torch.zeros(30_000, dtype=torch.float64)
            results.append((*fast.sums(versions, None, versions[0, 0], total, False), total))
            assert (fast._pool is not None) == (threads > 1)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.fixture
def always(monkeypatch):
    """Numba from the second batch on."""
    pytest.importorskip("numba")
    calls = []
    sums = OnePass.sums
    monkeypatch.setattr(layer_sums, "_ENTRIES_FOR_NUMBA", 0)
    monkeypatch.setattr(OnePass, "sums", lambda *arguments: calls.append(1) or sums(*arguments))
    return calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_networks_have_the_same_table(always, monkeypatch, dtype):
    """In channels_last, with a constant layer at the end; float32 within the rounding of its blocks, see above."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(576, 5), nn.Threshold(99, 0))
    model = model.to(dtype, memory_format=torch.channels_last)
    probes = relstab.make_probes(torch.randn(9, 3, 16, 16))
    with pytest.warns(UserWarning, match="rows of NaN"):
        table = relstab.measure_sensitivity(model, probes, batch_size=2)
    assert always
    monkeypatch.setattr(OnePass, "is_available", staticmethod(lambda: False))
    with pytest.warns(UserWarning, match="rows of NaN"):
        expected = relstab.measure_sensitivity(model, probes, batch_size=2)
    columns = ["D", "G", "R", "D_sem", "G_sem", "R_sem", "denominator"]
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(table[columns].to_numpy(), expected[columns].to_numpy(), rtol=tolerance, atol=tolerance / 10)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_the_layer(bad):
    images = torch.randn(6, 5)
    images[torch.arange(6), 2] = bad
    with pytest.raises(ValueError, match="expected finite activations"):
        relstab.measure_sensitivity(nn.Identity(), relstab.Probes(torch.randn(6, 5), torch.randn(6, 5), images), batch_size=2)


def test_numba_is_loaded_for_long_measurements_alone(always, monkeypatch):
    monkeypatch.undo()
    relstab.measure_sensitivity(nn.Identity(), relstab.Probes(*torch.randn(3, 6, 5)), batch_size=2)
    assert not always
    scratch = Scratch()
    scratch.expect(1e12)
    assert scratch.one_pass is not None


def test_without_numba_or_without_a_folder_for_its_code(monkeypatch):
    numba = pytest.importorskip("numba")
    try:
        one_pass._compiled.cache_clear()
        monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
        assert not OnePass.is_available()
        one_pass._compiled.cache_clear()
        monkeypatch.undo()

        def njit(*, cache=False, **_):
            if cache:
                raise RuntimeError("cannot cache function: no locator available")
            return lambda function: function

        monkeypatch.setattr(numba, "njit", njit)
        assert one_pass._compiled() is one_pass._sum_blocks
        one_pass._compiled.cache_clear()
        monkeypatch.setitem(sys.modules, "numba", None)
        assert not OnePass.is_available()
    finally:
        one_pass._compiled.cache_clear()
