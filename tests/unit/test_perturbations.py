"""Perturbations: norms, what each kind is, closed forms of S, and the Lie derivative as its limit."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import relstab
from relstab.noise import image_norms
from relstab.perturbations import KINDS


def smooth_images(count=6, size=16, dtype=torch.float64, channels=3):
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(count, channels, 5, 5, dtype=dtype, generator=generator)
    return nn.functional.interpolate(small, size, mode="bicubic", align_corners=True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_kind_has_the_norm_that_is_asked_for_image_by_image(kind, dtype):
    images = smooth_images(dtype=dtype)
    norm = image_norms(relstab.deform(images, 0.7, generator=seeded()) - images) * (torch.tensor([1, 0.1, 0.5, 0.02, 0.8, 0]))
    perturbed = relstab.perturb(images, kind, norm, seeded(1))
    assert perturbed.dtype == dtype
    torch.testing.assert_close(image_norms(perturbed - images), norm.double(), rtol=1e-4, atol=1e-5)
    assert torch.equal(perturbed, relstab.perturb(images, kind, norm, seeded(1)))


def test_deformations_are_those_of_deform():
    images = smooth_images()
    expected = relstab.deform(images, 0.6, generator=seeded())
    torch.testing.assert_close(relstab.perturb(images, "deformation", strength=0.6, generator=seeded()), expected)
    norm = image_norms(expected - images)
    torch.testing.assert_close(relstab.perturb(images, "deformation", norm, seeded()), expected, atol=2e-4, rtol=0)


def test_a_rotation_by_90_degrees_is_rot90():
    images = smooth_images()
    rotated = relstab.perturb(images, "rotation", strength=90.0, generator=seeded())
    for image, turned in zip(images, rotated, strict=True):
        assert any(torch.allclose(turned, image.rot90(k, (1, 2)), atol=1e-10) for k in (1, 3))


@pytest.mark.parametrize("kind", ["rotation", "dilation", "shear"])
def test_parts_of_a_jacobian_move_a_linear_image_as_their_matrices_do(kind):
    """An image x(row, col) = row or col is read at A (row, col): its gradients are the matrix."""
    size, t = 33, 0.1
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    images = torch.stack([place[:, None].expand(size, size), place.expand(size, size)])[None]
    moved = relstab.perturb(images, kind, strength=t, generator=seeded(3))[0, :, 8:25, 8:25]
    matrix = torch.stack([moved[:, 1:, 0] - moved[:, :-1, 0], moved[:, 0, 1:] - moved[:, 0, :-1]]).mean(-1).T  # [row or col, d]
    if kind == "dilation":
        assert abs(torch.linalg.det(matrix).log().item()) == pytest.approx(2 * t)
        torch.testing.assert_close(matrix, matrix[0, 0] * torch.eye(2, dtype=torch.float64))
    else:
        assert torch.linalg.det(matrix).item() == pytest.approx(1)
        angle = np.radians(t)
        expected = torch.tensor([np.cos(angle)] * 2 if kind == "rotation" else [np.cosh(t)] * 2, dtype=torch.float64)
        torch.testing.assert_close(matrix.diagonal().mean().expand(2), expected)
        sign = -1 if kind == "rotation" else 1
        assert matrix[0, 1].item() == pytest.approx(sign * matrix[1, 0].item())


def test_blur_of_a_wave_is_its_gaussian_factor():
    n, mode, width = 64, 6, 1.5
    wave = torch.cos(2 * torch.pi * mode * torch.arange(n, dtype=torch.float64) / n).expand(1, 1, n, n)
    blurred = relstab.perturb(wave, "blur", strength=width)
    factor = np.exp(-((2 * np.pi * mode / n) ** 2) * width**2 / 2)
    torch.testing.assert_close(blurred[..., 20:44], factor * wave[..., 20:44], rtol=1e-6, atol=1e-9)


def test_what_cannot_be_done_is_refused():
    images = smooth_images()
    with pytest.raises(ValueError, match="expected a norm that 'blur' reaches, got 1e\\+06 for image 0"):
        relstab.perturb(images, "blur", 1e6)
    with pytest.raises(ValueError, match="got 'twist'"):
        relstab.perturb(images, "twist", 1.0)
    with pytest.raises(ValueError, match="either norm or strength, got neither"):
        relstab.perturb(images, "noise")
    with pytest.raises(ValueError, match="finite and not negative"):
        relstab.perturb(images, "noise", torch.ones(2))
    with pytest.raises(ValueError, match=r"expected images of shape \[N, C, n, n\]"):
        relstab.perturb(images[0], "noise", 1.0)
    with pytest.raises(ValueError, match="jumps over"):
        relstab.perturb(images, lambda x, t: x + 100 * (t > 0.3).reshape(-1, 1, 1, 1), 1.0)


def test_s_of_a_linear_network_is_that_of_its_matrix():
    """S = E|A (x' - x)|^2 / 2 (E|A x|^2 - |A E x|^2)."""
    torch.manual_seed(0)
    images = smooth_images(40)
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 7)).double()
    changes = {kind: relstab.perturb(images, kind, 1.0, seeded()) for kind in ("noise", "translation", "shear")}
    table = relstab.measure_perturbations(model, images, changes, batch_size=7)
    matrix = model[1].weight.detach()
    f = images.flatten(1) @ matrix.T
    denominator = 2 * (f.square().sum(1).mean() - f.mean(0).square().sum())
    last = table[table["layer"] == "output"].set_index("perturbation")
    for kind, changed in changes.items():
        s = ((changed - images).flatten(1) @ matrix.T).square().sum(1).mean() / denominator
        assert last.loc[kind, "S"] == pytest.approx(s.item(), rel=1e-10)
        assert last.loc[kind, "ratio"] == pytest.approx(last.loc[kind, "S"] / last.loc["noise", "S"], rel=1e-10)
    at_input = table[table["layer"] == "input"]
    np.testing.assert_allclose(at_input["ratio"], 1, rtol=2e-4)


def test_isotropic_noise_through_a_matrix_is_its_frobenius_norm():
    """E|A eta|^2 = |eta|^2 |A|_F^2 / d."""
    torch.manual_seed(0)
    images = torch.randn(3000, 1, 4, 4, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).double()
    row = relstab.measure_perturbations(model, images, ["noise"], norm=0.5, generator=seeded(), batch_size=1000).iloc[-1]
    expected = 0.25 * model[1].weight.square().sum().item() / 16 / row["denominator"]
    assert abs(row["S"] - expected) < 4 * row["S_sem"]


def test_deformation_and_noise_are_d_and_g():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 3)).double()
    images = smooth_images(120)
    probes = relstab.make_probes(images, generator=seeded())
    expected = relstab.measure_sensitivity(model, probes)
    kinds = {"deformation": probes.deformed, "noise": probes.noisy}
    table = relstab.measure_perturbations(model, images, kinds, batch_size=40)
    for kind, name in (("deformation", "D"), ("noise", "G")):
        rows = table[table["perturbation"] == kind]
        assert list(rows["layer"]) == list(expected["layer"])
        np.testing.assert_allclose(rows["S"], expected[name], rtol=1e-10)
        np.testing.assert_allclose(rows["S_sem"], expected[f"{name}_sem"], rtol=0.05)
    ratio = table[table["perturbation"] == "deformation"]
    np.testing.assert_allclose(ratio["ratio"], expected["R"], rtol=1e-10)
    np.testing.assert_allclose(ratio["ratio_sem"], expected["R_sem"], rtol=1e-6, atol=1e-12)


def circular(activation):
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(c, 4, 3, padding=1, padding_mode="circular") for c in (3, 4)]
    layers = [convolutions[0], activation, convolutions[1], activation]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()


def test_global_pooling_of_circular_convolutions_does_not_see_translations():
    images = smooth_images()

    def rolled(images, strength):
        return torch.stack([image.roll((int(t), 2 * int(t)), (1, 2)) for image, t in zip(images, strength, strict=True)])

    strength = torch.tensor([1.0, 2, 3, 4, 5, 6])
    table = relstab.measure_perturbations(
        circular(nn.ReLU()), images, {"rolled": relstab.perturb(images, rolled, strength=strength)}
    )
    assert table["S"].iloc[-1] < 1e-28
    assert table["S"].iloc[1] > 0.1
    # Shifts by parts of a pixel are averages of shifts, which a linear network does not see either.
    shifted = relstab.perturb(images, "translation", strength=1.3, generator=seeded(), periodic=True)
    table = relstab.measure_perturbations(circular(nn.Identity()), images, {"shifted": shifted})
    assert table["S"].iloc[-1] < 1e-28
    assert table["S"].iloc[1] > 0.01


def test_symmetric_filters_and_global_pooling_do_not_see_rotations_by_90_degrees():
    model = circular(nn.ReLU())
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(sum(layer.weight.rot90(k, (2, 3)) for k in range(4)) / 4)
    images = smooth_images()
    turned = relstab.perturb(images, "rotation", strength=90.0, generator=seeded())
    table = relstab.measure_perturbations(model, images, {"turned": turned})
    assert table["S"].iloc[-1] < 1e-20
    assert table["S"].iloc[1] > 0.1


@pytest.mark.parametrize("kind", ["deformation", "noise", "translation", "rotation", "dilation", "shear"])
def test_the_lie_derivative_is_s_at_small_norms(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten()).double()
    images = smooth_images(9)
    limit = relstab.lie_derivatives(model, images, [kind], generator=seeded(), batch_size=4)
    norm = 1e-4
    table = relstab.measure_perturbations(model, images, [kind], norm=norm, generator=seeded(), batch_size=4)
    assert list(limit["layer"]) == list(table["layer"])
    np.testing.assert_allclose(limit["S"], table["S"] / norm**2, rtol=3e-3)
    assert limit["S"].iloc[0] == pytest.approx(1 / limit["denominator"].iloc[0], rel=1e-6)


def test_layers_of_the_paper_and_functions_are_measured():
    class Plain(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = torch.relu_(layer(x))
            return x

    images = smooth_images(dtype=torch.float32)
    table = relstab.measure_perturbations(Plain(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), images, ("blur", "jpeg"), 0.2, "paper")
    assert list(table["layer"]) == ["input"] * 2 + ["relu(1)"] * 2 + ["relu(2)"] * 2 + ["output"] * 2
    assert list(table["perturbation"][:2]) == ["blur", "jpeg"]
    constant = relstab.measure_perturbations(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Threshold(99, 0)), images, "blur", 0.2)
    assert constant["S"].iloc[-1:].isna().all()


class Classifier(nn.Module):
    def __init__(self, alone):
        super().__init__()
        self.alone, self.layer = alone, nn.Sequential(nn.Flatten(), nn.Linear(768, 3))

    def forward(self, x):
        logits = self.layer(x)
        return logits if self.alone else {"logits": logits, "features": x.square()}


@pytest.mark.parametrize("measure", [relstab.measure_perturbations, relstab.lie_derivatives])
def test_a_part_of_the_output_can_be_chosen(measure):
    several, alone = Classifier(alone=False).double(), Classifier(alone=True).double()
    several.load_state_dict(alone.state_dict())
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def measured(model, **options):
        return measure(model, images, generator=torch.Generator().manual_seed(1), layers="output", **options)

    pd.testing.assert_frame_equal(measured(several, output="logits"), measured(alone))
    with pytest.warns(UserWarning, match=r"the output is 2 tensors \(logits, features\), which are measured as one"):
        assert measured(several)["S"].tolist() != measured(alone)["S"].tolist()
