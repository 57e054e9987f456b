import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import relstab
from relstab.files.hdf5 import write_hdf5
from relstab.filter_spectra import has_spectrum
from relstab.stages.spectra import analyse_filters


def grid_laplacian(size):
    """Graph Laplacian of a size x size grid with free ends, from its edges."""
    laplacian = torch.zeros(size * size, size * size, dtype=torch.float64)
    for row in range(size):
        for col in range(size):
            for other in ((row + 1, col), (row, col + 1)):
                if max(other) < size:
                    a, b = row * size + col, other[0] * size + other[1]
                    laplacian[a, a] += 1
                    laplacian[b, b] += 1
                    laplacian[a, b] = laplacian[b, a] = -1
    return laplacian


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_modes_are_orthonormal_eigenvectors_in_order(size):
    eigenvalues, modes = relstab.laplacian_modes(size)
    flat = modes.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(size * size, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(flat @ grid_laplacian(size), eigenvalues[:, None] * flat, rtol=0, atol=1e-12)
    assert (eigenvalues.diff() > -1e-12).all()


@pytest.mark.parametrize("size", [3, 5, 7])
def test_eigenvalues_are_those_of_the_reference(reference, size):
    eigenvalues, _ = relstab.laplacian_modes(size)
    expected = torch.tensor(reference.figures[f"laplacian{size}"]["eigenvalues"], dtype=torch.float64)
    torch.testing.assert_close(eigenvalues, expected, rtol=1e-10, atol=1e-13)


def test_the_first_mode_is_homogeneous_and_degenerate_ones_have_a_fixed_order():
    _, modes = relstab.laplacian_modes(3)
    torch.testing.assert_close(modes[0], torch.full((3, 3), 1 / 3, dtype=torch.float64))
    # (a, b) = (0, 1) varies along columns, (1, 0) along rows.
    assert modes[1].diff(dim=0).abs().max() < 1e-14
    assert modes[2].diff(dim=1).abs().max() < 1e-14


@pytest.mark.parametrize("case", range(2))
def test_sums_over_eigenspaces_are_those_of_the_reference(reference, case):
    weight, figures = reference[f"spectrum{case}_weight"], reference.figures[f"spectrum{case}"]
    gamma = relstab.filter_spectrum(weight)
    eigenvalues, _ = relstab.laplacian_modes(weight.shape[-1])
    for eigenvalue, expected, degeneracy in zip(figures["eigenvalue"], figures["gamma_sum"], figures["degeneracy"], strict=True):
        space = (eigenvalues - eigenvalue).abs() < 1e-5
        assert space.sum() == degeneracy
        assert float(gamma[space].sum()) == pytest.approx(expected, rel=1e-10)


@settings(max_examples=30)
@given(size=st.integers(1, 6), out=st.integers(1, 5), into=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_the_spectrum_sums_to_the_mean_squared_norm(size, out, into, seed):
    weight = torch.randn(out, into, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = weight.square().sum((2, 3)).mean()
    assert float(relstab.filter_spectrum(weight).sum()) == pytest.approx(float(expected), rel=1e-12)


def test_a_mode_has_itself_as_its_spectrum():
    _, modes = relstab.laplacian_modes(3)
    gamma = relstab.filter_spectrum(2 * modes[4][None, None])
    expected = torch.zeros(9, dtype=torch.float64)
    expected[4] = 4
    torch.testing.assert_close(gamma, expected, rtol=1e-12, atol=1e-14)


def test_float32_weights_that_need_gradients_are_taken():
    layer = torch.nn.Conv2d(2, 3, 3)
    spectrum = relstab.filter_spectrum(layer.weight)
    assert spectrum.dtype == torch.float64
    assert torch.equal(relstab.filter_spectrum(layer), spectrum)
    assert torch.equal(relstab.filter_spectrum(layer.weight.detach().numpy()), spectrum)


def test_files_hold_every_convolution_larger_than_one_pixel(tmp_path):
    names = ["stem.weight", "b.1x1.weight", "a.late.weight", "fc.weight"]
    shapes = [(2, 1, 3, 3), (2, 2, 1, 1), (3, 2, 5, 5), (4, 3)]
    key = {"dataset": "some", "architecture": "net", "noise": 0.0, "seed": 1}
    with write_hdf5(tmp_path / "net.h5", {**key, "parameters_in_order": names}, "network") as file:
        for state, factor in (("init", 1.0), ("last", 2.0)):
            for name, shape in zip(names, shapes, strict=True):
                file[f"{state}/{name}"] = np.full(shape, factor, np.float32)
    analyse_filters(tmp_path / "spectra.h5", tmp_path / "net.h5")
    with h5py.File(tmp_path / "spectra.h5") as file:
        layers = [group.attrs["layer"] for group in file["trained"].values()]
        assert [group.attrs["depth"] for group in file["trained"].values()] == [0.5, 1.0]
        assert layers == ["stem", "a.late"]  # in the order of the network, not of the alphabet
        # A homogeneous filter of entries 2 has gamma_1 = (2 F)^2.
        assert file["trained/001/gamma"][0] == pytest.approx(100)
        assert file["init/000/gamma"][0] == pytest.approx(9)


def test_square_filters_of_more_than_one_site_have_a_spectrum():
    shapes = {(2, 1, 2, 2): True, (2, 1, 7, 7): True, (2, 1, 1, 7): False, (2, 1, 7, 1): False, (2, 1, 1, 1): False}
    assert {shape: has_spectrum(shape) for shape in [*shapes, (3, 3), (2, 1, 3, 3, 3)]} == shapes | {
        (3, 3): False, (2, 1, 3, 3, 3): False
    }  # fmt: skip


def test_a_grid_without_sites_is_refused():
    with pytest.raises(ValueError, match="expected size to be at least 1, got 0"):
        relstab.laplacian_modes(0)


@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 3, 5), (0, 2, 3, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="square filters"):
        relstab.filter_spectrum(torch.zeros(shape))
