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
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm

from relstab.activations import FunctionalActivations, find_layers
from relstab.channel_shuffle import CONVOLUTIONS
from relstab.layer_sums import BLOCK, LayerAccumulator, LayerSums, Scratch
from relstab.max_pooling import separable_max_pooling
from relstab.probes import Probes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "accumulate_sums", "measure_sensitivity", "sensitivity_rows"]

COLUMNS = ["layer", "kind", "index", "depth", "D", "G", "R", "D_sem", "G_sem", "R_sem", "denominator"]


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
        diffeo, noise = layer.diffeo, layer.noise
        denominator = 0.0 if layer.is_constant else layer.denominator
        # One image more of weight w changes 2 mean|f - m|^2 by 2 w (|f_i - m|^2 - mean).
        d, d_sem = _ratio(diffeo, denominator, 2 * layer.spread)
        g, g_sem = _ratio(noise, denominator, 2 * layer.spread)
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


def _by_image(value: Any, batch: int, layer: str) -> Tensor:
    """What a module gave as one tensor [batch, ...]; several tensors as one matrix [batch, features]."""
    tensors = [tensor for tensor in _tensors(value) if tensor.numel()]
    if not tensors:
        raise _NotByImageError(f"layer {layer!r} gave no floating-point tensor: there is nothing to measure")
    for tensor in tensors:
        if tensor.ndim == 0 or len(tensor) != batch:
            raise _NotByImageError(
                f"layer {layer!r} gave a tensor of shape {tuple(tensor.shape)} for {batch} images: "
                f"[{batch}, ...], the images along the first axis, is wanted"
            )
    return torch.cat([tensor.reshape(batch, -1) for tensor in tensors], 1) if len(tensors) > 1 else tensors[0]


def _axes_in_memory(tensor: Tensor) -> list[int]:
    """Axes in the order in which they lie in memory, the images' first: distances do not depend on the order of the features.

    It spares a copy of representations in channels_last.
    """
    return [0, *sorted(range(1, tensor.ndim), key=lambda axis: tensor.stride()[axis], reverse=True)]


def _chosen_modules(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """Modules to watch by name: the leaves by default, those of ``layers`` otherwise."""
    modules = {name: module for name, module in model.named_modules() if name}
    if layers is None:
        return {name: module for name, module in modules.items() if not list(module.children())}
    allowed = ["input", *modules, "output"]
    for name in layers:
        # Functions that modules apply, such as layer1.0.relu(2), are known when they run.
        if name not in allowed and not (name.endswith(")") and name.rpartition(".")[0] in {"", *modules}):
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


def _never_saw_an_image(norm: _BatchNorm) -> bool:
    """Whether the running statistics are those of construction: mean 0 and variance 1."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not bool(mean.any()) and bool((variance == 1).all())


def _warn_of_batch_norms(model: nn.Module) -> None:
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    unseen = [name for name, norm in norms.items() if _never_saw_an_image(norm)]
    if unseen:
        warnings.warn(
            f"{len(unseen)} batch norms, {unseen[0]!r} the first, never saw an image: their running mean 0 and variance 1 "
            f"are no statistics of the network; call relstab.estimate_batch_statistics(model, images) before",
            stacklevel=4,
        )
    untracked = [name for name, norm in norms.items() if norm.running_mean is None]
    if untracked:
        warnings.warn(
            f"{len(untracked)} batch norms, {untracked[0]!r} the first, keep no running statistics: they normalise an image by "
            f"those of its batch, so that D, G and R depend on the batch size; use track_running_stats=True",
            stacklevel=4,
        )


class RepresentationStore(Protocol):
    """Where representations are kept beside the sums, see :class:`relstab.files.activations.ActivationStore`."""

    def wants(self, layer: str) -> bool:
        """Whether it keeps a layer of this name."""

    def add(self, layer: str, kind: str, call: int, value: Tensor, rows: NDArray[np.int64]) -> None:
        """Keep one batch [3 B, ...] of a layer; ``rows`` are the positions of its images among the probes, [B]."""


# Bytes that the activations of one layer may take, three versions of a batch, when the batch size is automatic. On a CPU larger
# batches gain nothing, and beyond this the allocator returns memory to the system and gets it back page by page; a GPU wants more
# to do at a time.
_ROOM = {"cpu": 12 * 2**20, "cuda": 256 * 2**20}
# But at least as many images, so that what is kept of a layer is not gone through for every single one; and as many at first.
_SMALLEST_BATCH = 3
_LARGEST_BATCH = 4096


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _channel_length(module: nn.Module | None, output: Tensor) -> int | None:
    """Entries of a channel of a convolution's output, where they lie together and are worth a sum of their own."""
    if not isinstance(module, CONVOLUTIONS) or output.ndim < 3 or not output.is_contiguous():
        return None
    if output.dtype not in (torch.float32, torch.float64) or output.is_inference():  # which keeps no version
        return None
    length = output[0, 0].numel()
    return length if 64 <= length <= BLOCK else None


class _Recorder:
    """What the hooks of one pass of the probes through a network record, layer by layer and call by call."""

    def __init__(self, layers: Sequence[str] | None, store: RepresentationStore | None) -> None:
        self.sums: dict[tuple[str, str, int], LayerAccumulator] = {}
        self.left_out: set[str] = set()
        self.bytes_per_image = 0  # of the largest representation seen, one version
        self._layers = layers
        self._store = store
        self._rows: NDArray[np.int64] = np.arange(0)
        self._calls: Counter[tuple[str, str]] = Counter()
        self._scratch = Scratch()
        self._axes: dict[tuple[str, str, int], list[int]] = {}
        self._checks: list[tuple[LayerAccumulator, Tensor]] = []
        # The last convolution's output, its version, and the sums that hold its differences channel by channel.
        self._convolved: tuple[weakref.ref[Tensor], int, LayerAccumulator] | None = None

    def begin(self, rows: NDArray[np.int64]) -> None:
        """A batch of these probes comes."""
        self._rows = rows
        self._calls.clear()

    def measure_size(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Forward hook of layers that are not recorded, but take room."""
        size = max((tensor.numel() * tensor.element_size() for tensor in _tensors(output)), default=0)
        self.bytes_per_image = max(self.bytes_per_image, size // (3 * len(self._rows)))

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """Forward hook that records a layer."""

        def record(module: nn.Module, args: Any, output: Any) -> None:
            self.measure_size(module, args, output)
            self.record(name, type(module).__name__, output, module, args)

        return record

    def record_function(self, name: str, kind: str, value: Tensor) -> None:
        """Record what an activation function gave in a module, if it is by image: a table of positions has none."""
        if (self._layers is None or name in self._layers) and value.ndim and len(value) == 3 * len(self._rows):
            self.record(name, kind, value)

    def record(self, name: str, kind: str, value: Any, module: nn.Module | None = None, args: Any = ()) -> None:
        """Reduce what a layer gave, before the next one can change it in place."""
        # The kind is in the key because a module may be called "input" or "output" as well.
        self._calls[name, kind] += 1
        key = (name, kind, self._calls[name, kind])
        batch = 3 * len(self._rows)
        try:
            tensor = _by_image(value, batch, name)
        except _NotByImageError:
            if self._layers is not None or kind in ("input", "output"):
                raise
            self.left_out.add(name)
            return
        if self._store is not None and self._store.wants(name):
            self._store.add(*key, tensor, self._rows)
        if key not in self.sums:
            self.sums[key] = LayerAccumulator(name, kind, self._scratch)
            self._axes[key] = _axes_in_memory(tensor)
        if tensor.ndim != len(self._axes[key]):
            raise ValueError(
                f"layer {name!r} gave {len(self._axes[key])} axes, then {tensor.ndim}: as many in every batch are wanted"
            )
        matrix = tensor.permute(self._axes[key]).reshape(batch, -1)
        matrix = matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
        numerators = self._scaled_differences(module, args, tensor)
        block = _channel_length(module, tensor)
        self._checks.append((self.sums[key], self.sums[key].add(matrix, block or BLOCK, numerators)))
        self._convolved = (weakref.ref(tensor), tensor._version, self.sums[key]) if block else None

    def _scaled_differences(self, module: nn.Module | None, args: Any, output: Tensor) -> Tensor | None:
        """Diffeo and noise [2, B] of a batch norm that follows a convolution: it scales the differences channel by channel.

        Shifts cancel, so that |difference|^2 = sum over channels c of weight_c^2 / (running_var_c + eps) |difference_c|^2: the
        activations need not be gone through again. None for every other layer.
        """
        convolved, self._convolved = self._convolved, None
        if convolved is None or not isinstance(module, _BatchNorm) or type(module) not in _BATCH_NORMS or module.training:
            return None
        given, version, sums = convolved
        taken = args[0] if args else None
        if not isinstance(taken, Tensor) or taken is not given() or taken._version != version or taken.dtype != output.dtype:
            return None
        # A hook of the user's may give something else than the batch norm did.
        if module.running_var is None or sums.blocks is None or len(module._forward_hooks) > 1:
            return None
        scale = 1 / (module.running_var.to(sums.blocks) + module.eps)
        if module.affine:
            scale = scale * module.weight.to(sums.blocks).square()
        return sums.blocks @ scale

    def end(self) -> None:
        """The batch is through: were its activations finite? Fetched once a batch, since a GPU has to be waited for."""
        if not self._checks:
            return
        device = self._checks[0][1].device
        batch = torch.stack([values.to(device, non_blocking=True) for _, values in self._checks]).cpu().numpy()
        for (layer, _), values in zip(self._checks, batch, strict=True):
            if not np.isfinite(values).all():
                raise ValueError(
                    f"layer {layer.layer!r} ({layer.kind}) gave activations that are NaN, infinite or too large to square: "
                    f"finite ones are wanted"
                )
            layer.keep(values)
        self._checks.clear()

    def finish(self, order: NDArray[np.int64]) -> list[LayerSums]:
        """Sums of every layer in order of execution, after the last batch; ``order`` says which probes came in turn."""
        for name in self._layers or ():
            if not any(layer.layer == name for layer in self.sums.values()):
                raise ValueError(f"layer {name!r} was never called in the forward pass: layers that are called are wanted")
        # A layer of which some batches gave nothing would have D, G and R of other images than the rest.
        self.left_out |= {layer.layer for layer in self.sums.values() if layer.images < len(order)}
        if self.left_out:
            warnings.warn(
                f"left out, since they give nothing by image in every batch: {', '.join(sorted(self.left_out))}", stacklevel=4
            )
        # The output comes last in each batch, but a layer may be called for the first time in a later one.
        kept = sorted(self.sums.values(), key=lambda layer: layer.kind == "output")
        return [layer.finish(order) for layer in kept if layer.layer not in self.left_out]


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, where it is compiled or replicated: hooks see every layer of it, images go through it in one piece."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    original = getattr(model, "_orig_mod", None)  # what torch.compile made
    return _unwrapped(original) if isinstance(original, nn.Module) else model


def _batches(
    probes: Probes | Iterable[Probes], batch_size: int | None, recorder: _Recorder, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], Probes]]:
    """Which probes, and these probes, batch by batch; of automatic size, the first batch tells how much room an image takes.

    Probes that are all at hand go in random order (always the same): the running means behind the standard errors are then
    means of all kinds of images, also where the images come sorted by class.
    """
    shuffled = isinstance(probes, Probes)
    seen = 0
    for part in [probes] if isinstance(probes, Probes) else probes:
        if not isinstance(part, Probes):
            raise ValueError(f"probes hold {type(part).__name__}: Probes, or an iterable of Probes, are wanted")
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(len(part))
        start = 0
        while start < len(part):
            left = len(part) - start
            size = batch_size
            if size is None:
                room = _ROOM.get(device.type, _ROOM["cuda"])
                fitting = room // (3 * recorder.bytes_per_image) if recorder.bytes_per_image else 0
                most = min(max(fitting, _SMALLEST_BATCH), _LARGEST_BATCH)
                size = math.ceil(left / math.ceil(left / most))  # equal batches: no small one at the end
            rows = order[start : start + size]
            yield (seen + rows).numpy(), part[rows if shuffled else slice(start, start + size)]
            start += size
        seen += len(part)


def accumulate_sums(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: Sequence[str] | None = None,
    batch_size: int | None = None,
    store: RepresentationStore | None = None,
) -> list[LayerSums]:
    """Run the probes through the network and accumulate what D, G and R of every layer are made of.

    The three versions of a batch go through the network together and every layer is reduced as soon as it is computed,
    before the next one can change it in place: no activation outlives its layer, whatever the number of images.

    Args:
        model, probes, layers, batch_size: those of :func:`measure_sensitivity`.
        store: where representations are kept; nowhere by default.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: at least 1, or None for an automatic one, is wanted")
    model = _unwrapped(model)
    modules = _chosen_modules(model, layers)
    reference = next(itertools.chain(model.parameters(), model.buffers()), None)
    device = reference.device if reference is not None else None
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
    _warn_of_batch_norms(model)

    recorder = _Recorder(layers, store)
    handles: list[RemovableHandle] = []
    orders: list[NDArray[np.int64]] = []
    total = len(probes) if isinstance(probes, Probes) else None
    try:
        handles += [module.register_forward_hook(recorder.hook(name)) for name, module in modules.items()]
        watched = set(modules.values())
        others = [module for module in model.modules() if module not in watched and not list(module.children())]
        handles += [module.register_forward_hook(recorder.measure_size) for module in others]
        # The bar shows on a terminal, of what takes longer than 10 s.
        with (
            _eval_mode(model),
            FunctionalActivations(model, recorder.record_function),
            separable_max_pooling(model),
            tqdm(total=total, unit=" images", delay=10, disable=None, leave=False) as bar,
        ):
            for rows, part in _batches(probes, batch_size, recorder, device or torch.device("cpu")):
                recorder.begin(rows)
                orders.append(rows)
                stacked = torch.cat([part.images, part.deformed, part.noisy]).to(device, dtype)
                recorder.measure_size(model, None, stacked)
                if layers is None or "input" in layers:
                    recorder.record("input", "input", stacked)
                output = model(stacked)
                if layers is None or "output" in layers:
                    recorder.record("output", "output", output)
                del stacked, output
                recorder.end()
                bar.update(len(part))
    finally:
        for handle in handles:
            handle.remove()
    images = sum(map(len, orders))
    if images < 2:
        raise ValueError(f"probes hold {images} image(s): at least 2 are wanted, and 500 are usual")
    return recorder.finish(np.concatenate(orders))


def _found_layers(
    model: nn.Module, probes: Probes | Iterable[Probes], which: Literal["paper", "blocks"] | None
) -> tuple[Probes | Iterable[Probes], list[tuple[str, int]] | None]:
    """The probes, and the layers that :func:`relstab.find_layers` finds with two of them; None where all layers do without."""
    if isinstance(probes, Probes):
        first = probes
    else:
        batches = iter(probes)
        head = list(itertools.islice(batches, 1))
        probes = itertools.chain(head, batches)
        if not head or not isinstance(head[0], Probes):
            return probes, None
        first = head[0]
    try:
        return probes, find_layers(_unwrapped(model), first[:2].images, which or "paper")
    except Exception:
        if which is not None:
            raise
        return probes, None


def measure_sensitivity(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: Sequence[str] | Literal["paper", "blocks"] | None = None,
    batch_size: int | None = None,
    constant: Literal["raise", "nan"] = "raise",
    keep_activations: str | Path | None = None,
    keep_layers: Sequence[str] = ("*",),
) -> "pd.DataFrame":
    """Measure D, G and R of every layer of a network (paper, Eq. 1).

    The network is put in evaluation mode for the measurement and gets its modes back afterwards; weights and buffers
    stay as they are. At initialization the running statistics of batch norm mean nothing yet: estimate them first with
    :func:`relstab.estimate_batch_statistics`. Of a network that torch.compile, DataParallel or DistributedDataParallel wraps,
    the network itself is measured.

    Args:
        model: any module that takes the probes' images; the probes go to its device and dtype.
        probes: from :func:`relstab.make_probes`, or an iterable of such batches. The standard errors of D and G ask for
            images in an order that says nothing of them; Probes are put in one, an iterable is taken as it comes.
        layers: names in ``model.named_modules()``, and "input" and "output"; by default these two and every module
            without children, but for those that give nothing by image in every batch (a warning names them), and every
            activation function (``layer1.0.relu(2)`` is the second relu in ``layer1.0``). A module that is called several
            times has a row for every call. "paper" and "blocks" find layers, see :func:`relstab.find_layers`.
        batch_size: images that go through the network at a time (each in three versions); by default as many as keep the
            activations of the widest layer below 12 MiB on a CPU and 256 MiB on a GPU, but 3 at least.
        constant: what to do with a layer whose representation is the same for all images, so that the denominator is 0:
            "raise" a ValueError, or give "nan".
        keep_activations: HDF5 file to write the representations to, see :class:`relstab.files.activations.ActivationStore`;
            written atomically. By default they are not kept.
        keep_layers: which of the measured layers are kept, as shell patterns of their names; all by default.

    Returns:
        One row a layer, in order of execution, with columns

        - layer, kind: name and class of the module;
        - index, depth: k from 0 (the input) to K (the output), and k / K; of chosen layers, their place among the rows;
        - D, G, R and their standard errors D_sem, G_sem, R_sem (delta method over the images);
        - denominator: mean of |f(x1) - f(x2)|^2 over all pairs of images.

    Raises:
        ValueError: fewer than two images, a layer that is unknown or not called, activations that are not finite, a constant
            representation.
    """
    if constant not in ("raise", "nan"):
        raise ValueError(f"constant is {constant!r}: 'raise' or 'nan' is wanted")
    found = None
    if layers is None or layers == "paper" or layers == "blocks":
        probes, found = _found_layers(model, probes, layers)
        if layers is not None:
            assert found is not None
            layers = ["input", *dict.fromkeys(name for name, _ in found), "output"]
    if keep_activations is None:
        sums = accumulate_sums(model, probes, layers, batch_size)
    else:
        # The one thing on this floor that makes a file, and only when a path is given.
        from relstab.files.activations import write_activations

        with write_activations(keep_activations, keep_layers, layers) as store:
            sums = accumulate_sums(model, probes, layers, batch_size, store)
    for layer in sums:
        if constant == "raise" and layer.is_constant:
            raise ValueError(
                f"layer {layer.layer!r} ({layer.kind}) gives the same representation for all images, "
                f"so that D and G have denominator 0: images or a network that tell them apart are wanted"
            )
    import pandas as pd  # here, because a job that only writes HDF5 does without it

    table = pd.DataFrame(sensitivity_rows(sums), columns=COLUMNS)
    if found:
        table.attrs["paper_layers"] = [list(layer) for layer in found]
    return table
