"""Perturbations of images of many kinds, all of the same norm, and how every layer of a network reacts to each.

A kind has a strength t >= 0 per image, and t = 0 leaves the image as it is. Its norm |T_t x - x| grows with t: the strength at
which it has a given norm is found by a search, image by image. For a representation f, in place of D and G of the paper
(Tomasini et al., arXiv 2210.01506, Eq. 1),

    S_kind = E|f(T x) - f(x)|^2 / E|f(x1) - f(x2)|^2,

and the limit of S / norm^2 at small norms is the Lie derivative along the kind, the local equivariance error of an invariant
representation (Gruver et al., arXiv 2210.02984).
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from relstab.activations import evaluating
from relstab.diffeomorphism import deform, displacement_field, temperature
from relstab.interpolation import warp
from relstab.noise import image_norms, isotropic_noise
from relstab.recorder import Recorder, Trial, placed, unwrapped
from relstab.runs.allocation import kept_memory
from relstab.runs.devices import repeatable
from relstab.sensitivity_table import LayerSums, ratio_and_error

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "lie_derivatives", "measure_perturbations", "perturb"]

Perturbation = Callable[[Tensor, Tensor], Tensor]
"""Function of images [N, ...] and strengths [N] that returns perturbed images."""

TOLERANCE = 1e-4
"""Largest relative error of the norm of a perturbation."""
# Doublings of the strength from its start, and steps of the search between the last two.
_DOUBLINGS, _STEPS = 14, 60
# Norm of a perturbation, relative to that of the image, which counts as infinitesimal in float64.
_SMALL = 1e-6


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [H, 1] and columns [1, W] of the pixels, counted from the centre."""
    height, width = images.shape[-2:]
    row = torch.arange(height, dtype=images.dtype, device=images.device)[:, None] - (height - 1) / 2
    return row, torch.arange(width, dtype=images.dtype, device=images.device)[None] - (width - 1) / 2


def _linear(images: Tensor, matrix: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]) -> Perturbation:
    """Warp that reads an image at A (row, col), from its centre; ``matrix`` gives the entries of A by strength."""
    row, col = _places(images)

    def apply(images: Tensor, strength: Tensor) -> Tensor:
        rr, rc, cr, cc = (_column(entry) for entry in matrix(strength))
        return warp(images, col - (cr * row + cc * col), row - (rr * row + rc * col))

    return apply


def _uniform(images: Tensor, generator: torch.Generator | None) -> Tensor:
    device = images.device if generator is None else generator.device
    return torch.rand(len(images), dtype=images.dtype, device=device, generator=generator).to(images.device)


def _sign(images: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.where(_uniform(images, generator) < 0.5, -1.0, 1.0).to(images.dtype)


def _deformation(images: Tensor, generator: torch.Generator | None, cutoff: int = 3) -> Perturbation:
    size = images.shape[-1]
    device = images.device if generator is None else generator.device
    coefficients = torch.randn(2, len(images), cutoff, cutoff, dtype=images.dtype, device=device, generator=generator)
    dx, dy = displacement_field(coefficients.to(images.device), size, temperature(1.0, cutoff, size))
    return lambda images, strength: warp(images, _column(strength) * dx, _column(strength) * dy)


def _noise(images: Tensor, generator: torch.Generator | None) -> Perturbation:
    direction = isotropic_noise(images, 1.0, generator)
    return lambda images, strength: images + direction * strength.reshape(-1, *[1] * (images.ndim - 1))


def _translation(images: Tensor, generator: torch.Generator | None, periodic: bool = False) -> Perturbation:
    angle = 2 * math.pi * _uniform(images, generator)
    height, width = images.shape[-2:]

    def apply(images: Tensor, strength: Tensor) -> Tensor:
        down, right = strength * angle.sin(), strength * angle.cos()
        if not periodic:
            field = torch.ones_like(images[:, 0])
            return warp(images, _column(right) * field, _column(down) * field)
        # Along each axis the average of the two shifts by whole pixels next to it.
        for axis, shift in ((-2, down), (-1, right)):
            size = (height, width)[axis]
            whole = shift.floor()
            index = (torch.arange(size, device=images.device) - whole.long()[:, None]) % size
            index = index[:, None, :, None] if axis == -2 else index[:, None, None, :]
            near = images.gather(axis, index.expand_as(images))
            share = (shift - whole)[:, None, None, None]
            images = (1 - share) * near + share * near.roll(1, axis)
        return images

    return apply


def _rotation(images: Tensor, generator: torch.Generator | None) -> Perturbation:
    sign = _sign(images, generator) * (math.pi / 180)
    return _linear(images, lambda t: ((t * sign).cos(), -(t * sign).sin(), (t * sign).sin(), (t * sign).cos()))


def _dilation(images: Tensor, generator: torch.Generator | None) -> Perturbation:
    sign = _sign(images, generator)
    return _linear(images, lambda t: ((t * sign).exp(), 0 * t, 0 * t, (t * sign).exp()))


def _shear(images: Tensor, generator: torch.Generator | None) -> Perturbation:
    angle = 2 * math.pi * _uniform(images, generator)
    a, b = angle.cos(), angle.sin()
    # The exponential of t ((a, b), (b, -a)), whose trace is 0.
    return _linear(images, lambda t: (t.cosh() + a * t.sinh(), b * t.sinh(), b * t.sinh(), t.cosh() - a * t.sinh()))


def _blur(_images: Tensor, _generator: torch.Generator | None) -> Perturbation:
    def apply(images: Tensor, strength: Tensor) -> Tensor:
        for axis in (-2, -1):
            size = images.shape[axis]
            place = torch.arange(size, dtype=images.dtype, device=images.device)
            # At strength 0 each pixel has weight 1 on itself and 0 on all others.
            width = strength.clamp(min=1e-3)[:, None, None]
            weight = torch.softmax(-((place[:, None] - place) ** 2) / (2 * width**2), -1)[:, None]
            images = weight @ images if axis == -2 else images @ weight.transpose(-1, -2)
        return images

    return apply


def _jpeg(images: Tensor, _generator: torch.Generator | None) -> Perturbation:
    """Compression of quality 100 - strength; between two qualities the average of both, so that every norm is reached."""
    from PIL import Image

    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    scale = (high - low).clamp(min=torch.finfo(images.dtype).tiny)
    modes = {1: "L", 3: "RGB"}
    if images.shape[1] not in modes:
        raise ValueError(f"expected images of 1 or 3 channels for 'jpeg', got {images.shape[1]}")
    pixels = (255 * (images - low) / scale).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def compressed(quality: NDArray[np.int64]) -> Tensor:
        decoded = []
        for image, q in zip(pixels, quality, strict=True):
            memory = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(memory, "JPEG", quality=int(q))
            decoded.append(np.asarray(Image.open(memory)).reshape(image.shape))
        values = torch.from_numpy(np.stack(decoded)).to(images).permute(0, 3, 1, 2)
        return low + scale * values / 255

    def apply(images: Tensor, strength: Tensor) -> Tensor:
        strength = strength.clamp(0, 99)
        coarse = strength.ceil().clamp(min=1)
        share = (strength - (coarse - 1)).reshape(-1, 1, 1, 1)
        finer, coarser = (compressed((100 - step).long().cpu().numpy()) for step in (coarse - 1, coarse))
        finer = torch.where((coarse == 1).reshape(-1, 1, 1, 1), images, finer)
        return (1 - share) * finer + share * coarser

    return apply


# Each with the strength at which the search starts; in pixels, degrees, logarithms of lengths, or steps of quality.
_KINDS: dict[str, tuple[Callable[..., Perturbation], float]] = {
    "deformation": (_deformation, 1.0),
    "noise": (_noise, 1.0),
    "translation": (_translation, 1.0),
    "rotation": (_rotation, 3.0),
    "dilation": (_dilation, 0.05),
    "shear": (_shear, 0.05),
    "blur": (_blur, 0.5),
    "jpeg": (_jpeg, 25.0),
}
KINDS = tuple(_KINDS)


def _strengths(apply: Perturbation, images: Tensor, norm: Tensor, start: float, name: str) -> Tensor:
    """Strength at which each image moves by its norm: doubled until it moves further, then regula falsi (Illinois)."""

    def excess(strength: Tensor) -> Tensor:
        return image_norms(apply(images, strength) - images) - norm

    low, high = torch.zeros_like(norm), torch.full_like(norm, start)
    below, above = -norm, excess(high.to(images.dtype))
    for _ in range(_DOUBLINGS):
        short = above < 0
        if not bool(short.any()):
            break
        low, below = torch.where(short, high, low), torch.where(short, above, below)
        high = torch.where(short, 2 * high, high)
        above = torch.where(short, excess(high.to(images.dtype)), above)
    unreached = (above < 0) & (above.abs() > TOLERANCE * norm)
    if bool(unreached.any()):
        first = int(unreached.nonzero()[0])
        raise ValueError(
            f"expected a norm that {name} reaches, got {norm[first]:g} for image {first}, which it moves by "
            f"{norm[first] + above[first]:g} at most ({int(unreached.sum())} such images)"
        )
    best = torch.where(norm > 0, high, 0)
    best_error = torch.where(norm > 0, above.abs(), 0)
    for step in range(_STEPS):
        if bool((best_error <= TOLERANCE / 2 * norm).all()):
            break
        # Now and then halved, where the norm jumps or is flat.
        middle = (low + high) / 2 if step % 4 == 3 else (low * above - high * below) / (above - below)
        middle = torch.where(torch.isfinite(middle), middle, high)
        value = excess(middle.to(images.dtype))
        better = value.abs() < best_error
        best, best_error = torch.where(better, middle, best), torch.where(better, value.abs(), best_error)
        short = value < 0
        low, below, above = (
            torch.where(short, middle, low),
            torch.where(short, value, below),
            torch.where(short, above / 2, value),
        )
        high, below = torch.where(short, high, middle), torch.where(short, below, below / 2)
    if bool((best_error > TOLERANCE * norm).any()):
        first = int((best_error > TOLERANCE * norm).nonzero()[0])
        raise ValueError(
            f"expected a perturbation whose norm grows steadily, but {name} jumps over {norm[first]:g} (image {first})"
        )
    return best


def perturb(
    images: Tensor,
    kind: str | Perturbation,
    norm: Tensor | float | None = None,
    generator: torch.Generator | None = None,
    strength: Tensor | float | None = None,
    **options: Any,
) -> Tensor:
    """Perturb each image by its own draw of a kind, with a given norm of the change or a given strength.

    Args:
        images: [N, C, n, n], floating point.
        kind: one of these, with the meaning of the strength in brackets. Outside of an image its nearest pixel is read.

            - "deformation": a diffeomorphism of the ensemble of :func:`relstab.deform` (typical displacement in pixels);
              option ``cutoff=3``.
            - "noise": white noise (its norm).
            - "translation": in a random direction (pixels); option ``periodic=False``.
            - "rotation": about the centre, to either side (degrees).
            - "dilation": about the centre, larger or smaller (logarithm of the factor).
            - "shear": longer along a random axis, as much shorter across it (logarithm of the factor). Rotation, dilation and
              shear are the parts of a deformation's Jacobian.
            - "blur": Gaussian (its standard deviation in pixels).
            - "jpeg": compression of the image, scaled to 0 to 255 (100 - quality).
            - a function of images [N, ...] and strengths [N] that returns perturbed images, unchanged ones at strength 0.

        norm: |T x - x|, one number or one per image [N]; reached within a part in 10,000.
        generator: source of the draws, on any device; torch's global generator by default.
        strength: in place of ``norm``, one number or one per image.

    Returns:
        The perturbed images, of the shape, dtype and device of ``images``.

    Raises:
        ValueError: an unknown kind, both or neither of norm and strength, a norm that the kind does not reach.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        got = f"shape {tuple(images.shape)}, {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"expected images of shape [N, C, n, n] in floating point, got {got}")
    if isinstance(kind, str) and kind not in _KINDS:
        raise ValueError(f"expected kind to be a function or one of {', '.join(KINDS)}, got {kind!r}")
    if (norm is None) == (strength is None):
        raise ValueError("expected either norm or strength, got " + ("neither" if norm is None else "both"))
    given = torch.as_tensor(strength if norm is None else norm, device=images.device)
    if given.shape not in ((), (len(images),)) or not bool((given.isfinite() & (given >= 0)).all()):
        raise ValueError(
            f"expected norm or strength to be finite and not negative, one number or one for each of the {len(images)} images, "
            f"got shape {tuple(given.shape)}, {given.flatten()[:3].tolist()}"
        )
    if callable(kind):
        apply, start, name = kind, 1.0, getattr(kind, "__name__", "the function")
    else:
        draw, start = _KINDS[kind]
        apply, name = draw(images, generator, **options), repr(kind)
    given = given.expand(len(images))
    with repeatable(images.device):
        if norm is not None and kind != "noise":
            given = _strengths(apply, images, given.to(image_norms(images[:0]).dtype), start, name)
        return apply(images, given.to(images.dtype))


def _versions(images: Tensor, kinds: Any, norm: Tensor | float | None, generator: torch.Generator | None) -> dict[str, Tensor]:
    """Perturbed images by the name of the perturbation."""
    if isinstance(kinds, str) or callable(kinds):
        kinds = [kinds]
    named = dict(kinds) if isinstance(kinds, Mapping) else {getattr(kind, "__name__", str(kind)): kind for kind in kinds}
    if not named:
        raise ValueError(f"expected perturbations, such as {', '.join(KINDS)}, got none")
    if len(images) < 2:
        raise ValueError(f"expected at least 2 images, got {len(images)}")
    if norm is None:
        norm = image_norms(deform(images, generator=generator) - images)
    versions = {
        name: kind if isinstance(kind, Tensor) else perturb(images, kind, norm, generator) for name, kind in named.items()
    }
    for name, version in versions.items():
        if version.shape != images.shape:
            raise ValueError(f"expected {name} to return images of shape {tuple(images.shape)}, got {tuple(version.shape)}")
    return versions


def _rows(layer: LayerSums, names: Sequence[str], reference: str, place: dict[str, float]) -> Iterator[dict[str, Any]]:
    """One row per perturbation."""
    denominator = 0.0 if layer.is_constant else layer.denominator
    other = layer.numerators[names.index(reference)]
    for name, values in zip(names, layer.numerators, strict=True):
        s, s_sem = ratio_and_error(values, denominator, 2 * layer.spread)
        ratio, ratio_sem = ratio_and_error(values, other.mean() if denominator else 0.0, other)
        row = {"layer": layer.layer, "kind": layer.kind, **place, "perturbation": name, "S": s, "S_sem": s_sem}
        yield row | {"ratio": ratio, "ratio_sem": ratio_sem, "denominator": denominator}


def _table(sums: Sequence[LayerSums], found: Any, names: Sequence[str], reference: str | None) -> "pd.DataFrame":
    import pandas as pd

    reference = reference or ("noise" if "noise" in names else names[0])
    if reference not in names:
        raise ValueError(f"expected the reference to be one of {', '.join(names)}, got {reference!r}")
    last = max(len(sums) - 1, 1)
    places = ({"index": index, "depth": index / last} for index in range(len(sums)))
    table = pd.DataFrame(
        [row for layer, place in zip(sums, places, strict=True) for row in _rows(layer, names, reference, place)]
    )
    if found:
        table.attrs["paper_layers"] = [list(layer) for layer in found]
    return table


def _prepared(model: nn.Module, images: Tensor, layers: Any) -> tuple[nn.Module, Tensor, Any, Trial]:
    """The network itself, images on its device and in its dtype, the layers to measure, and what a trial told."""
    model = unwrapped(model)
    images = placed(model, images)
    which = layers if layers in ("paper", "blocks") else None
    trial = Trial(model, images, which, required=which is not None)
    return model, images, trial.rows() if which is not None else layers, trial


def _recorded(recorder: Recorder, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[LayerSums]:
    """Sums after the batches, each the positions of its images and its versions."""
    with kept_memory(placed(model, torch.empty(0)).device), evaluating(model), recorder.watching():
        for rows, stacked in batches:
            recorder.send(rows.numpy(), stacked)
    return recorder.finish()


def _parts(count: int, batch_size: int) -> Iterator[Tensor]:
    """Positions of the images of batches of about the same size, so that none has a single image."""
    if batch_size < 1:
        raise ValueError(f"expected batch_size to be at least 1, got {batch_size}")
    yield from torch.arange(count).tensor_split(math.ceil(count / batch_size))


def measure_perturbations(
    model: nn.Module,
    images: Tensor,
    kinds: Sequence[str | Perturbation] | Mapping[str, str | Perturbation | Tensor] = ("deformation", "noise"),
    norm: Tensor | float | None = None,
    layers: Sequence[str] | str | None = None,
    reference: str | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 32,
    output: str | Callable[[Any], Any] | None = None,
) -> "pd.DataFrame":
    """Sensitivity S of every layer to each of several perturbations of the same norm, in one pass of V + 1 versions.

    Args:
        model: any module that takes the images; it is measured in evaluation mode.
        images: [P, C, n, n], normalised as the network expects them, in an order that carries no information.
        kinds: kinds of :func:`perturb`; by name also functions, and images that are perturbed already.
        norm: of the perturbations, see :func:`perturb`; by default that of a deformation of the image by one pixel.
        layers, output: as in :func:`relstab.measure_sensitivity`.
        reference: the perturbation that ratios are taken to; by default "noise", or else the first.
        generator: source of the perturbations.
        batch_size: images that go through the network at a time, each in V + 1 versions.

    Returns:
        One row per layer and perturbation: layer, kind, index and depth as in :func:`relstab.measure_sensitivity`;
        perturbation; S and its standard error S_sem; ratio, S over that of the reference, and ratio_sem; denominator. A
        representation that is the same for all images has S = NaN.
    """
    model, images, layers, trial = _prepared(model, images, layers)
    versions = _versions(images, kinds, norm, generator)
    stacks = [images, *versions.values()]
    recorder = Recorder(model, layers, trial, len(versions), output=output)
    with repeatable(images.device):
        batches = (
            (rows, trial.placed(torch.cat([version[rows] for version in stacks]))) for rows in _parts(len(images), batch_size)
        )
        sums = _recorded(recorder, model, batches)
    return _table(*trial.of_layers(sums), list(versions), reference)


def lie_derivatives(
    model: nn.Module,
    images: Tensor,
    kinds: Sequence[str | Perturbation] | Mapping[str, str | Perturbation] = ("deformation", "noise"),
    layers: Sequence[str] | str | None = None,
    reference: str | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 32,
    output: str | Callable[[Any], Any] | None = None,
) -> "pd.DataFrame":
    """Limit of S / norm^2 of :func:`measure_perturbations` at infinitesimal norm: E|df(x) v|^2 / E|f(x1) - f(x2)|^2.

    v is the direction, of norm 1, in which a kind moves the image x at first. Interpolation has a kink at strength 0, where
    this is the derivative to the right. The derivative df is taken by forward differentiation; v is a difference in float64.

    Args:
        model, images, layers, reference, generator, batch_size, output: as in :func:`measure_perturbations`.
        kinds: as there; "jpeg" has no derivative.

    Returns:
        The table of :func:`measure_perturbations`, with S per unit of norm^2.
    """
    model, images, layers, trial = _prepared(model, images, layers)
    norms = image_norms(images)
    exact = images.double() if images.device.type != "mps" else images
    versions = _versions(exact, kinds, _SMALL * torch.where(norms > 0, norms, 1), generator)
    names = list(versions)
    directions = []
    for version in versions.values():
        change = version - exact
        directions.append((change / image_norms(change).clamp(min=1e-300).reshape(-1, 1, 1, 1)).to(images.dtype))
    by_kind = []
    for direction in directions:
        recorder = Recorder(model, layers, trial, perturbations=1, tangents=True, output=output)
        with repeatable(images.device), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            batches = ((rows, forward_ad.make_dual(images[rows], direction[rows])) for rows in _parts(len(images), batch_size))
            by_kind.append(_recorded(recorder, model, batches))
    sums = [replace(same[0], numerators=np.concatenate([s.numerators for s in same])) for same in zip(*by_kind, strict=True)]
    return _table(*trial.of_layers(sums), names, reference)
