"""Sensitivity of every layer of a network to diffeomorphisms (D), to white noise (G), and their ratio (R).

For a representation f and images x (Tomasini et al., arXiv 2210.01506, Eq. 1),

    D = E|f(tau x) - f(x)|^2 / E|f(x1) - f(x2)|^2,   G = E|f(x + eta) - f(x)|^2 / (the same),   R = D / G,

with |eta| = |tau x - x| image by image. x1 and x2 are drawn independently, so that over P images the denominator is
the mean over all P^2 pairs, which is 2 (mean |f|^2 - |mean f|^2) exactly: it takes one pass and no pairs.
"""

import contextlib
import difflib
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from relstab.probes import Probes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "LayerSums", "accumulate_sums", "measure_sensitivity", "sensitivity_rows"]

COLUMNS = ["layer", "kind", "index", "depth", "D", "G", "R", "D_sem", "G_sem", "R_sem", "denominator"]


@dataclass
class LayerSums:
    """What D, G and R of one layer are made of, accumulated batch by batch in float64.

    Attributes:
        layer: name in ``model.named_modules()``, or "input" or "output".
        kind: class of the module, or "input" or "output".
        diffeo: |f(tau x) - f(x)|^2, one number an image.
        noise: |f(x + eta) - f(x)|^2, one number an image.
        spread: |f(x) - m|^2, one number an image, with m the mean over the images seen so far, its batch included. Only
            the standard errors of D and G use it; for images in random order they differ by about 1 / batch from those
            with the mean over all images.
    """

    layer: str
    kind: str
    diffeo: list[Tensor] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    spread: list[Tensor] = field(default_factory=list)
    # Representations are counted from the mean of the first batch: D, G and R do not depend on the origin, and near the
    # mean the difference of mean |f|^2 and |mean f|^2 loses no digits.
    _origin: Tensor | None = None
    _sum: Tensor | None = None
    _sum_of_squares: float = 0.0
    _images: int = 0

    def add(self, representation: Tensor) -> None:
        """Add one batch, [3 B, features]: B images, then their deformed, then their noisy versions."""
        clean, deformed, noisy = representation.chunk(3)
        if self._origin is None or self._sum is None:
            self._origin = clean.mean(0)
            self._sum = torch.zeros(clean.shape[1], dtype=torch.float64)
        if clean.shape[1] != len(self._origin):
            raise ValueError(
                f"layer {self.layer!r} gave {len(self._origin)} features an image, then {clean.shape[1]}: "
                f"the same number for every batch is wanted"
            )
        self.diffeo.append((deformed - clean).square().sum(1).cpu().double())
        self.noise.append((noisy - clean).square().sum(1).cpu().double())
        centred = clean - self._origin
        squares = centred.square().sum(1).cpu().double()
        self._sum += centred.sum(0).cpu()
        self._sum_of_squares += float(squares.sum())
        self._images += len(clean)
        mean = self._sum / self._images
        self.spread.append(squares - 2 * (centred @ mean.to(centred)).cpu().double() + mean.square().sum())
        if not math.isfinite(float(self.diffeo[-1].sum() + self.noise[-1].sum() + squares.sum())):
            raise ValueError(
                f"layer {self.layer!r} ({self.kind}) gave activations that are NaN, infinite or too large to square: "
                f"finite ones are wanted"
            )

    @property
    def denominator(self) -> float:
        """Mean of |f(x1) - f(x2)|^2 over all pairs: 2 (mean |f|^2 - |mean f|^2)."""
        assert self._sum is not None
        return 2 * (self._sum_of_squares / self._images - float((self._sum / self._images).square().sum()))

    @property
    def is_constant(self) -> bool:
        """Whether the representation is the same for all images, up to rounding."""
        assert self._origin is not None
        scale = float(self._origin.double().square().sum())
        rounding = torch.finfo(self._origin.dtype).eps
        # Each feature is off by some units in its last place at most, about its own mean.
        return self.denominator <= (4 * rounding) ** 2 * scale

    def per_image(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """``diffeo``, ``noise`` and ``spread`` as arrays over all the images."""
        diffeo, noise, spread = (torch.cat(parts).numpy() for parts in (self.diffeo, self.noise, self.spread))
        return diffeo, noise, spread


def _ratio(numerator: NDArray[np.float64], denominator: float, influence: NDArray[np.float64]) -> tuple[float, float]:
    """Ratio of ``numerator``'s mean to ``denominator`` and its standard error by the delta method.

    ``influence`` is how each image moves the denominator: d / d(weight of the image), up to a constant. Then
    psi_i = (a_i - mean a) / b - (mean a / b^2) (influence_i - mean influence) and sem^2 = sum psi^2 / (P (P - 1)).
    """
    if denominator == 0:
        return math.nan, math.nan
    count = len(numerator)
    ratio = numerator.mean() / denominator
    psi = (numerator - numerator.mean() - ratio * (influence - influence.mean())) / denominator
    return float(ratio), float(np.sqrt(np.square(psi).sum() / (count * (count - 1))))


def sensitivity_rows(sums: Sequence[LayerSums]) -> list[dict[str, Any]]:
    """D, G and R with standard errors, one row of :data:`COLUMNS` a layer, from the sums of :func:`accumulate_sums`.

    A representation that is the same for all images has denominator 0 and no sensitivity: its D, G and R are NaN.
    """
    rows = []
    last = len(sums) - 1
    for index, layer in enumerate(sums):
        diffeo, noise, spread = layer.per_image()
        denominator = 0.0 if layer.is_constant else layer.denominator
        # One image more of weight w changes 2 mean|f - m|^2 by 2 w (|f_i - m|^2 - mean).
        d, d_sem = _ratio(diffeo, denominator, 2 * spread)
        g, g_sem = _ratio(noise, denominator, 2 * spread)
        r, r_sem = _ratio(diffeo, noise.mean() if denominator else 0.0, noise)
        depth = index / last if last else 0.0
        row = (layer.layer, layer.kind, index, depth, d, g, r, d_sem, g_sem, r_sem, denominator)
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in what a module gave: a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


class _NotByImageError(ValueError):
    """A module gave something that has no image along its first axis."""


def _flatten(value: Any, batch: int, layer: str) -> Tensor:
    """What a module gave as one matrix [batch, features], in float32 at least."""
    tensors = list(_tensors(value))
    if not tensors:
        raise _NotByImageError(f"layer {layer!r} gave no floating-point tensor: there is nothing to measure")
    for tensor in tensors:
        if tensor.ndim == 0 or len(tensor) != batch:
            raise _NotByImageError(
                f"layer {layer!r} gave a tensor of shape {tuple(tensor.shape)} for {batch} images: "
                f"[{batch}, ...], the images along the first axis, is wanted"
            )
    matrix = (
        torch.cat([tensor.reshape(batch, -1) for tensor in tensors], 1) if len(tensors) > 1 else tensors[0].reshape(batch, -1)
    )
    return matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()


def _chosen_modules(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """Modules to watch by name: the leaves by default, those of ``layers`` otherwise."""
    modules = {name: module for name, module in model.named_modules() if name}
    if layers is None:
        return {name: module for name, module in modules.items() if not list(module.children())}
    allowed = ["input", *modules, "output"]
    for name in layers:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f'layer {name!r} is not a module of the model, "input" or "output"{hint}')
    return {name: module for name, module in modules.items() if name in layers}


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; each module's own mode again afterwards, whatever happens."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _batches(probes: Probes | Iterable[Probes], batch_size: int) -> Iterator[Probes]:
    for part in [probes] if isinstance(probes, Probes) else probes:
        if not isinstance(part, Probes):
            raise ValueError(f"probes hold {type(part).__name__}: Probes, or an iterable of Probes, are wanted")
        for start in range(0, len(part), batch_size):
            yield part[start : start + batch_size]


def _never_saw_an_image(norm: _BatchNorm) -> bool:
    """Whether the running statistics are those of construction: mean 0 and variance 1."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not bool(mean.any()) and bool((variance == 1).all())


def accumulate_sums(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: Sequence[str] | None = None,
    batch_size: int = 125,
) -> list[LayerSums]:
    """Run the probes through the network and accumulate what D, G and R of every layer are made of.

    The three versions of a batch go through the network together and every layer is reduced as soon as it is computed,
    before the next one can change it in place: no activation outlives its layer, whatever the number of images.

    Arguments are those of :func:`measure_sensitivity`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: at least 1 is wanted")
    modules = _chosen_modules(model, layers)
    reference = next(itertools.chain(model.parameters(), model.buffers()), None)
    like: dict[str, Any] = {}
    if reference is not None:
        like["device"] = reference.device
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        if dtype is not None:
            like["dtype"] = dtype

    sums: dict[tuple[str, str, int], LayerSums] = {}
    calls: Counter[tuple[str, str]] = Counter()
    left_out: set[str] = set()
    batch = 0

    def record(name: str, kind: str, value: Any) -> None:
        # The kind is in the key because a module may be called "input" or "output" as well.
        calls[name, kind] += 1
        try:
            matrix = _flatten(value, batch, name)
        except _NotByImageError:
            if layers is not None or kind in ("input", "output"):
                raise
            left_out.add(name)
            return
        sums.setdefault((name, kind, calls[name, kind]), LayerSums(name, kind)).add(matrix)

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            record(name, type(module).__name__, output)

        return hook

    untracked = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and _never_saw_an_image(module)]
    if untracked:
        warnings.warn(
            f"{len(untracked)} batch norms, {untracked[0]!r} the first, never saw an image: their running mean 0 and variance 1 "
            f"are no statistics of the network; call relstab.estimate_batch_statistics(model, images) before",
            stacklevel=3,
        )
    handles: list[RemovableHandle] = []
    images = 0
    try:
        handles += [module.register_forward_hook(watch(name)) for name, module in modules.items()]
        with _eval_mode(model):
            for part in _batches(probes, batch_size):
                batch = 3 * len(part)
                images += len(part)
                calls.clear()
                stacked = torch.cat([part.images, part.deformed, part.noisy]).to(**like)
                if layers is None or "input" in layers:
                    record("input", "input", stacked)
                output = model(stacked)
                if layers is None or "output" in layers:
                    record("output", "output", output)
    finally:
        for handle in handles:
            handle.remove()
    if images < 2:
        raise ValueError(f"probes hold {images} image(s): at least 2 are wanted, and 500 are usual")
    if left_out:
        warnings.warn(f"left out, since they give nothing by image: {', '.join(sorted(left_out))}", stacklevel=3)
    # The output is recorded last in each batch, but a layer may be called for the first time in a later batch.
    return sorted(sums.values(), key=lambda layer: layer.kind == "output")


def measure_sensitivity(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: Sequence[str] | None = None,
    batch_size: int = 125,
    constant: Literal["raise", "nan"] = "raise",
) -> "pd.DataFrame":
    """Measure D, G and R of every layer of a network (paper, Eq. 1).

    The network is put in evaluation mode for the measurement and gets its modes back afterwards; weights and buffers
    stay as they are. At initialization the running statistics of batch norm mean nothing yet: estimate them first with
    :func:`relstab.estimate_batch_statistics`.

    Args:
        model: any module that takes the probes' images; the probes go to its device and dtype.
        probes: from :func:`relstab.make_probes`, or an iterable of such batches.
        layers: names in ``model.named_modules()``, and "input" and "output"; by default these two and every module
            without children, but for those that give nothing by image (a warning names them). A module that is called
            several times has a row for every call.
        batch_size: images that go through the network at a time (each in three versions).
        constant: what to do with a layer whose representation is the same for all images, so that the denominator is 0:
            "raise" a ValueError, or give "nan".

    Returns:
        One row a layer, in order of execution, with columns

        - layer, kind: name and class of the module;
        - index, depth: k from 0 (the input) to K (the output), and k / K; of chosen layers, their place among the rows;
        - D, G, R and their standard errors D_sem, G_sem, R_sem (delta method over the images);
        - denominator: mean of |f(x1) - f(x2)|^2 over all pairs of images.

    Raises:
        ValueError: fewer than two images, an unknown layer, activations that are not finite, a constant representation.
    """
    if constant not in ("raise", "nan"):
        raise ValueError(f"constant is {constant!r}: 'raise' or 'nan' is wanted")
    sums = accumulate_sums(model, probes, layers, batch_size)
    for layer in sums:
        if constant == "raise" and layer.is_constant:
            raise ValueError(
                f"layer {layer.layer!r} ({layer.kind}) gives the same representation for all images, "
                f"so that D and G have denominator 0: images or a network that tell them apart are wanted"
            )
    import pandas as pd  # here, because a job that only writes HDF5 does without it

    return pd.DataFrame(sensitivity_rows(sums), columns=COLUMNS)
