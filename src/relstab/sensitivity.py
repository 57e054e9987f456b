"""Sensitivity of every layer of a network to diffeomorphisms (D), to white noise (G), and their ratio (R).

For a representation f and images x (Tomasini et al., arXiv 2210.01506, Eq. 1),

    D = E|f(tau x) - f(x)|^2 / E|f(x1) - f(x2)|^2,   G = E|f(x + eta) - f(x)|^2 / (the same),   R = D / G,

with |eta| = |tau x - x| image by image. x1 and x2 are drawn independently, so that over P images the denominator is
the mean over all P^2 pairs, which is 2 (mean |f|^2 - |mean f|^2) exactly: it takes one pass and no pairs.
"""

import contextlib
import fnmatch
import functools
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

import relstab
from relstab.activations import FunctionalActivations, evaluating, find_layers, tensors
from relstab.batch_norm import VersionNorms, has_batch_norm
from relstab.function_check import departure
from relstab.layer_sums import LayerAccumulator, Scratch
from relstab.probes import VERSIONS, Probes
from relstab.runs.devices import repeatable
from relstab.runs.nearest import nearest
from relstab.sensitivity_table import COLUMNS, LayerSums, sensitivity_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RepresentationStore", "accumulate_sums", "measure_sensitivity"]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in a module's output."""
    return (tensor for tensor in tensors(value) if tensor.is_floating_point())


class _NotByImageError(ValueError):
    """The output of a module does not have the images along its first axis."""


def _by_image(value: Any, batch: int, layer: str) -> Tensor:
    """A module's output as one tensor [batch, ...]; several tensors as one matrix [batch, features]."""
    parts = [tensor for tensor in _tensors(value) if tensor.numel()]
    if not parts:
        raise _NotByImageError(f"expected layer {layer!r} to return a floating-point tensor, got {type(value).__name__}")
    for tensor in parts:
        if tensor.ndim == 0 or len(tensor) != batch:
            raise _NotByImageError(
                f"expected layer {layer!r} to return a tensor of shape [{batch}, ...], the images along the first axis, "
                f"got shape {tuple(tensor.shape)} for {batch} images"
            )
    return torch.cat([tensor.reshape(batch, -1) for tensor in parts], 1) if len(parts) > 1 else parts[0]


def _axes_in_memory(tensor: Tensor) -> list[int]:
    """Axes in their order in memory, the axis of the images first.

    Distances do not depend on the order of the features. This order spares a copy of representations in channels_last.
    """
    return [0, *sorted(range(1, tensor.ndim), key=lambda axis: tensor.stride()[axis], reverse=True)]


def _chosen_layers(model: nn.Module, layers: str | Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Names of the rows: of the layers that are named, and of the others.

    The default rows are the input, the leaves and the output; none of them is named. A pattern selects among these, a name
    selects any module or activation function. Which functions a module applies is known when it runs.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    defaults = ["input", *(name for name, module in modules.items() if not list(module.children())), "output"]
    if layers is None:
        return [], defaults
    named, matched = [], []
    for name in [layers] if isinstance(layers, str) else layers:
        matches = fnmatch.filter(defaults, name)
        if name in ("input", *modules, "output") or (name.endswith(")") and name.rpartition(".")[0] in {"", *modules}):
            named.append(name)
        elif matches:
            matched += matches
        else:
            raise ValueError(
                f'expected layers to be modules of the model, "input" or "output", or patterns of their names, got {name!r}'
                f"{nearest(name, ['input', *modules, 'output'])}"
            )
    return named, [name for name in matched if name not in named]


def _parts(value: Any) -> dict[str, Any]:
    """Named parts of a model's output: the items of a dict, the fields of a dataclass or named tuple."""
    if isinstance(value, dict):
        return {str(name): part for name, part in value.items()}
    return value._asdict() if hasattr(value, "_asdict") else dict(getattr(value, "__dict__", {}))


def _chosen_output(value: Any, output: str | Callable[[Any], Any] | None, warn: bool) -> Any:
    """The part of the model's output that is measured; ``warn`` if several parts are measured as one."""
    if callable(output):
        return output(value)
    names = ", ".join(_parts(value))
    if output is not None:
        if output not in _parts(value):
            raise ValueError(f"expected output to be one of {names or 'no names'} in {type(value).__name__}, got {output!r}")
        return _parts(value)[output]
    count = len(list(_tensors(value)))
    if warn and count > 1:
        warnings.warn(
            f"the output is {count} tensors ({names[:80] or type(value).__name__}), which are measured as one; choose a part "
            f"with output=, a name or a function",
            stacklevel=5,
        )
    return value


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
            f"are not statistics of the network; measure with batch_norm='per_version', or call "
            f"relstab.estimate_batch_statistics(model, images) before",
            stacklevel=5,
        )
    untracked = [name for name, norm in norms.items() if norm.running_mean is None]
    if untracked:
        warnings.warn(
            f"{len(untracked)} batch norms, {untracked[0]!r} the first, keep no running statistics: they normalise an image by "
            f"those of its batch, so that D, G and R depend on the batch size; use track_running_stats=True or "
            f"batch_norm='per_version'",
            stacklevel=5,
        )


class RepresentationStore(Protocol):
    """Where representations are stored beside the sums, see :class:`relstab.files.activations.ActivationStore`."""

    def wants(self, layer: str) -> bool:
        """Whether it stores a layer of this name."""

    def add(self, layer: str, kind: str, call: int, value: Tensor, rows: NDArray[np.int64]) -> None:
        """Store one batch [3 B, ...] of a layer; ``rows`` are the positions of its images among the probes, [B]."""


# Bytes that the activations of one layer may take, three versions of a batch, when the batch size is automatic. On a CPU larger
# batches gain nothing, and beyond this the allocator returns memory to the system and gets it back page by page. A GPU needs
# larger batches to be busy.
_LAYER_BYTES = {"cpu": 12 * 2**20, "cuda": 256 * 2**20}
# At least this many images per batch, so that the per-layer bookkeeping is amortised; also the size of the first batch.
_SMALLEST_BATCH = 3
_LARGEST_BATCH = 4096


class _Recorder:
    """What the hooks of one pass of the probes through a network record, layer by layer and call by call."""

    def __init__(self, named: Sequence[str], store: RepresentationStore | None) -> None:
        self.sums: dict[tuple[str, str, int], LayerAccumulator] = {}
        self.left_out: set[str] = set()
        self.bytes_per_image = 0  # of the largest representation seen, one version
        self._named = named
        self._store = store
        self._rows: NDArray[np.int64] = np.arange(0)
        self._calls: Counter[tuple[str, str]] = Counter()
        self._scratch = Scratch()
        self._axes: dict[tuple[str, str, int], list[int]] = {}
        self._pending: list[tuple[LayerAccumulator, Tensor]] = []
        self._tried = 0  # images in the batch that is tried; 0 in the others
        self._not_by_image: set[tuple[str, str, int]] = set()

    def begin(self, rows: NDArray[np.int64]) -> None:
        """Start a batch of the probes ``rows``."""
        self._rows = rows
        self._calls.clear()

    @contextlib.contextmanager
    def trying(self, images: int) -> Iterator[None]:
        """Within the block, nothing is recorded of a batch of another size, except which layers are not by image.

        A layer [tokens, batch, features] with three times as many tokens as images is by image for one size of batch alone.
        """
        self._tried = images
        self._calls.clear()
        try:
            yield
        finally:
            self._tried = 0

    @property
    def _batch(self) -> int:
        return self._tried or 3 * len(self._rows)

    def measure_size(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Forward hook of layers that are not recorded, but take memory."""
        if self._tried:
            return
        size = max((tensor.numel() * tensor.element_size() for tensor in _tensors(output)), default=0)
        self.bytes_per_image = max(self.bytes_per_image, size // (3 * len(self._rows)))

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """Forward hook that records a layer."""

        def record(module: nn.Module, args: Any, output: Any) -> None:
            self.measure_size(module, args, output)
            self.record(name, type(module).__name__, output)

        return record

    def record_function(self, name: str, kind: str, value: Tensor) -> None:
        """Record the output of an activation function if the images are along its first axis: a table of positions has none."""
        if not value.is_floating_point() or (name, kind, 0) in self._not_by_image:
            return
        if value.ndim and len(value) == self._batch:
            self.record(name, kind, value)
        elif self._tried:
            self._not_by_image.add((name, kind, 0))  # all its calls

    def record(self, name: str, kind: str, value: Any) -> None:
        """Reduce the output of a layer, before the next layer can change it in place."""
        # The kind is in the key because a module may be called "input" or "output" as well.
        self._calls[name, kind] += 1
        key = (name, kind, self._calls[name, kind])
        batch = self._batch
        try:
            if key in self._not_by_image:
                raise _NotByImageError
            tensor = _by_image(value, batch, name)
        except _NotByImageError:
            if name in self._named or kind in ("input", "output"):
                raise
            self._not_by_image.add(key)
            self.left_out.add(name)
            return
        if self._tried:
            return
        if self._store is not None and self._store.wants(name):
            self._store.add(*key, tensor, self._rows)
        if key not in self.sums:
            self.sums[key] = LayerAccumulator(name, kind, self._scratch)
            self._axes[key] = _axes_in_memory(tensor)
        if tensor.ndim != len(self._axes[key]):
            raise ValueError(
                f"expected layer {name!r} to return as many axes in every batch, got {len(self._axes[key])}, then {tensor.ndim}"
            )
        matrix = tensor.permute(self._axes[key]).reshape(batch, -1)
        matrix = matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
        self._pending.append((self.sums[key], self.sums[key].add(matrix)))
        if kind == "output":
            self.sums[key].keep_representation(matrix)

    def end(self) -> None:
        """Fetch the sums of the batch and check that they are finite: once per batch, since a GPU has to be waited for."""
        if not self._pending:
            return
        device = self._pending[0][1].device
        batch = torch.stack([values.to(device, non_blocking=True) for _, values in self._pending]).cpu().numpy()
        for (layer, _), values in zip(self._pending, batch, strict=True):
            if not np.isfinite(values).all():
                raise ValueError(
                    f"expected finite activations, got NaN, infinite ones or ones too large to square from layer "
                    f"{layer.layer!r} ({layer.kind})"
                )
            layer.keep(values)
        self._pending.clear()

    def finish(self, order: NDArray[np.int64]) -> list[LayerSums]:
        """Sums of every layer in order of execution, after the last batch; ``order`` [P] says which probe each image was."""
        for name in self._named:
            if not any(layer.layer == name for layer in self.sums.values()):
                raise ValueError(f"expected layers that the forward pass calls, got {name!r}, which it never calls")
        # A layer that some batches did not reach would have D, G and R of other images than the rest.
        self.left_out |= {layer.layer for layer in self.sums.values() if layer.images < len(order)}
        if self.left_out:
            warnings.warn(
                f"left out, since they return nothing by image in every batch: {', '.join(sorted(self.left_out))}", stacklevel=5
            )
        # The output comes last in each batch, but a layer may be called for the first time in a later batch.
        complete = sorted(self.sums.values(), key=lambda layer: layer.kind == "output")
        return [layer.finish(order) for layer in complete if layer.layer not in self.left_out]


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile or a data-parallel wrapper: there, hooks see every layer and whole batches."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    original = getattr(model, "_orig_mod", None)  # set by torch.compile
    if isinstance(original, nn.Module):
        return _unwrapped(original)
    if not isinstance(model, nn.Module):
        hint = "; torch.export.unflatten(program) is one" if isinstance(model, torch.export.ExportedProgram) else ""
        raise ValueError(f"expected model to be a torch.nn.Module, got {type(model).__name__}{hint}")
    return model


def _batches(
    probes: Probes | Iterable[Probes], batch_size: int | None, recorder: _Recorder, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], Probes]]:
    """Positions of the probes of each batch, and these probes.

    If the batch size is automatic, the first batch shows how much memory an image takes. Probes that are all in memory come in
    random order, the same in every run: then the running means behind the standard errors are means of all kinds of images, also
    where the images are sorted by class.
    """
    shuffled = isinstance(probes, Probes)
    seen = 0
    for part in [probes] if isinstance(probes, Probes) else probes:
        if not isinstance(part, Probes):
            raise ValueError(f"expected Probes or an iterable of Probes, got an iterable of {type(part).__name__}")
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(len(part))
        start = 0
        while start < len(part):
            remaining = len(part) - start
            size = batch_size
            if size is None:
                available = _LAYER_BYTES.get(device.type, _LAYER_BYTES["cuda"])
                fitting = available // (3 * recorder.bytes_per_image) if recorder.bytes_per_image else 0
                most = min(max(fitting, _SMALLEST_BATCH), _LARGEST_BATCH)
                size = math.ceil(remaining / math.ceil(remaining / most))  # equal batches: no small one at the end
            rows = order[start : start + size]
            yield (seen + rows).numpy(), part[rows if shuffled else slice(start, start + size)]
            start += size
        seen += len(part)


# Bytes that the activations of one layer may take, one version of all images, for batch norm to see all of them in one pass.
_ONE_PASS_BYTES = {"cpu": 512 * 2**20, "cuda": 4 * 2**30}


def _version_norms(
    model: nn.Module, probes: Probes | Iterable[Probes], batch_size: int | None, load: Callable[[Tensor], Tensor]
) -> VersionNorms:
    """Batch norms with the statistics of each version of the probes; the model is in evaluation mode."""
    if isinstance(probes, Iterator):
        raise ValueError(
            "expected Probes or a list of Probes for batch_norm='per_version', which reads them several times, "
            "got an iterator, which can be read once"
        )
    parts = [probes] if isinstance(probes, Probes) else probes
    total = sum(map(len, parts))
    if batch_size is None:
        recorder = _Recorder([], None)
        first = load(next(iter(parts)).images[:2])
        recorder.begin(np.arange(len(first)))
        handles = [module.register_forward_hook(recorder.measure_size) for module in model.modules()]
        try:
            model(first)
        finally:
            for handle in handles:
                handle.remove()
        image_bytes = max(3 * recorder.bytes_per_image, 1)  # it divides by three versions, and here is one
        one_pass, several = (sizes.get(first.device.type, sizes["cuda"]) for sizes in (_ONE_PASS_BYTES, _LAYER_BYTES))
        batch_size = total if total * image_bytes <= one_pass else max(several // image_bytes, _SMALLEST_BATCH)

    def batches(version: str) -> Iterator[Tensor]:
        if total <= batch_size:
            yield load(torch.cat([getattr(part, version) for part in parts]))
        else:
            for part in parts:
                yield from map(load, getattr(part, version).split(batch_size))

    norms = VersionNorms(model)
    for version in VERSIONS:
        norms.estimate(functools.partial(batches, version), total <= batch_size)
    return norms


def accumulate_sums(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    store: RepresentationStore | None = None,
    batch_norm: Literal["running", "per_version"] = "running",
    output: str | Callable[[Any], Any] | None = None,
) -> list[LayerSums]:
    """Run the probes through the network and accumulate the sums behind D, G and R of every layer.

    The three versions of a batch go through the network together. Each layer is reduced as soon as it is computed, before the
    next one can change it in place, so that no activation outlives its layer and the memory does not grow with P. float32 is
    never rounded to TF32, which makes R too low: by a part in a thousand at displacements of a pixel, by a tenth at a hundredth
    of a pixel.

    Args:
        model, probes, layers, batch_size, store, batch_norm, output: those of :func:`measure_sensitivity`.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"expected batch_size to be at least 1, or None for an automatic one, got {batch_size}")
    if batch_norm not in ("running", "per_version"):
        raise ValueError(f"expected batch_norm to be 'running' or 'per_version', got {batch_norm!r}")
    model = _unwrapped(model)
    named, others = _chosen_layers(model, layers)
    rows_of = {*named, *others}
    chosen = [layers] if isinstance(layers, str) else layers or []
    if rows_of - {"input", "output"} and any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError(
            "expected a model that runs in Python, got a scripted or traced one, whose layers cannot be watched; measure the "
            "module that it was made from, or layers=['input', 'output']"
        )
    reference = next(itertools.chain(model.parameters(), model.buffers()), None)
    device = reference.device if reference is not None else None
    place = device or torch.device("cpu")
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
    per_version = batch_norm == "per_version" and has_batch_norm(model)
    if not per_version:
        _warn_of_batch_norms(model)

    recorder = _Recorder(named, store)
    probes, first = _peeked(probes)
    orders: list[NDArray[np.int64]] = []
    total = len(probes) if isinstance(probes, Probes) else None
    # The bar appears on a terminal, after 10 s.
    with (
        repeatable(place),
        evaluating(model),
        contextlib.ExitStack() as stack,
        tqdm(total=total, unit=" images", delay=10, disable=None, leave=False) as bar,
    ):
        norms = None
        if per_version:
            norms = _version_norms(model, probes, batch_size, lambda images: images.to(device, dtype))

        def record_function(name: str, kind: str, value: Tensor) -> None:
            if layers is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in chosen):
                recorder.record_function(name, kind, value)

        for name, module in model.named_modules():
            if name in rows_of and name:
                stack.callback(module.register_forward_hook(recorder.hook(name)).remove)
            elif not list(module.children()) and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(recorder.measure_size).remove)
        if isinstance(first, Probes) and len(first) > 1:
            with recorder.trying(2), FunctionalActivations(model, record_function):
                try:
                    model(first.images[:2].to(device, dtype))
                except _NotByImageError:
                    raise
                except Exception:  # a model may take one batch size alone; the measurement reports any other error
                    pass
        if norms is not None:
            stack.enter_context(norms.applied())
        stack.enter_context(FunctionalActivations(model, record_function))
        for rows, part in _batches(probes, batch_size, recorder, place):
            recorder.begin(rows)
            stacked = torch.cat([part.images, part.deformed, part.noisy]).to(device, dtype)
            recorder.measure_size(model, None, stacked)
            if "input" in rows_of:
                recorder.record("input", "input", stacked)
            result = model(stacked)
            if "output" in rows_of:
                recorder.record("output", "output", _chosen_output(result, output, warn=not orders))
            orders.append(rows)
            del stacked, result
            recorder.end()
            bar.update(len(part))
    images = sum(map(len, orders))
    if images < 2:
        raise ValueError(f"expected probes of at least 2 images, and 500 are usual, got {images} image(s)")
    return recorder.finish(np.concatenate(orders))


def _report_constants(sums: Sequence[LayerSums], constant: Literal["nan", "raise"]) -> None:
    """Raise or warn if layers return the same representation for all images."""
    names = ", ".join(repr(layer.layer) for layer in sums if layer.is_constant)
    if names and constant == "raise":
        raise ValueError(
            f"expected representations that differ between images, got the same one for all images from {names}, so that D and G "
            f"have denominator 0; constant='nan' gives these layers rows of NaN"
        )
    if names:
        message = f"rows of NaN, since the representation is the same for all images: {names}"
        warnings.warn(message if len(message) <= 200 else f"{message[:197]}...", stacklevel=4)


def _peeked(probes: Probes | Iterable[Probes]) -> tuple[Probes | Iterable[Probes], Any]:
    """The probes, and their first batch; an iterator can be read once."""
    if isinstance(probes, Probes):
        return probes, probes
    batches = iter(probes)
    first = next(batches, None)
    if isinstance(probes, Iterator):
        probes = (part for part in itertools.chain([first], batches) if part is not None)
    return probes, first


def _found_layers(model: nn.Module, first: Any, which: Literal["paper", "blocks"] | None) -> list[tuple[str, int]] | None:
    """The layers that :func:`relstab.find_layers` finds with two probes of the first batch.

    Without ``which``, all layers are measured, and a model in which none can be found has None.
    """
    if not isinstance(first, Probes):
        if which is not None:
            raise ValueError(f"expected Probes or an iterable of Probes, got {type(first).__name__}")
        return None
    try:
        return find_layers(_unwrapped(model), first[:2].images, which or "paper")
    except Exception:  # a model may fail for many reasons; the measurement of all layers then says which
        if which is not None:
            raise
        return None


def _warn_unless_function(model: nn.Module, first: Any) -> None:
    try:
        how = departure(_unwrapped(model), first.images)
    except Exception:  # as above
        return
    if how == "random":
        warnings.warn(
            "the model draws random numbers in evaluation mode, so that D and G measure these and R is about 1: pass "
            "training=self.training to functional.dropout and the like",
            stacklevel=4,
        )
    elif how == "company":
        warnings.warn("the output for an image depends on the other images of its batch, and so do D and G", stacklevel=4)


def measure_sensitivity(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    constant: Literal["nan", "raise"] = "nan",
    batch_norm: Literal["running", "per_version"] = "running",
    output: str | Callable[[Any], Any] | None = None,
    store: RepresentationStore | None = None,
) -> "pd.DataFrame":
    """Measure D, G and R of every layer of a network (paper, Eq. 1).

    The network is in evaluation mode during the measurement and gets its modes back afterwards; weights and buffers
    stay as they are. If torch.compile, DataParallel or DistributedDataParallel wraps the network, the network itself is measured.

    Args:
        model: any module that takes the probes' images; the probes go to its device and dtype.
        probes: from :func:`relstab.make_probes`, or an iterable of such batches. The standard errors of D and G assume that the
            order of the images carries no information. Probes are shuffled; an iterable is used in its own order.
        layers: a name or several: of modules in ``model.named_modules()``, "input" and "output"; or shell patterns, which select
            among the default rows. These are the input, every module without children, every activation function
            (``layer1.0.relu(2)`` is the second relu in ``layer1.0``), and the output, except those that return nothing by image
            in every batch (a warning names them). A module that is called several times has one row per call. "paper" and
            "blocks" find layers, see :func:`relstab.find_layers`.
        batch_size: images that go through the network at a time (each in three versions); by default as many as keep the
            activations of the widest layer below 12 MiB on a CPU and 256 MiB on a GPU, but at least 3.
        constant: what to do with layers whose representation is the same for all images, so that the denominator is 0: "nan"
            returns rows of NaN and warns once, "raise" raises a ValueError.
        batch_norm: "running" normalises all images by the running statistics. "per_version" normalises x, tau x and x + eta each
            by the mean and the biased variance of their own P images, as the reference measures untrained networks, see
            :class:`relstab.batch_norm.VersionNorms`. Images whose activations fit into 512 MiB per layer (4 GiB on a GPU) take
            one more pass; more images take one pass per batch norm. The probes must be Probes or a list of them.
        output: the part of the model's output that is measured, if it returns several: a key or attribute, such as "logits", or a
            function of what it returns. By default all its tensors together.
        store: object that also gets the representations; none by default. ``relstab.measure_sensitivity(keep_activations=path)``
            writes them to a file.

    Returns:
        One row per layer, in order of execution, with columns

        - layer, kind: name and class of the module;
        - index, depth: k from 0 (the input) to K (the output), and k / K; with ``layers``, the position among the rows;
        - D, G, R and their standard errors D_sem, G_sem, R_sem (delta method over the images);
        - denominator: mean of |f(x1) - f(x2)|^2 over all pairs of images;
        - D_median, G_median, R_median: of the output, with medians in place of means, see
          :func:`relstab.layer_sums.median_sensitivities`; NaN for the other layers.

        Its ``attrs`` say P, displacement, cutoff and interpolation of the probes, batch_norm, and the versions of relstab and
        torch. ``paper_layers`` among them are the name and call of the layers that were found, see :func:`relstab.find_layers`.

    Raises:
        ValueError: fewer than two images, a layer that is unknown or not called, activations that are not finite, a scripted or
            exported model.
    """
    if constant not in ("nan", "raise"):
        raise ValueError(f"expected constant to be 'nan' or 'raise', got {constant!r}")
    found = None
    probes, first = _peeked(probes)
    if layers is None or layers == "paper" or layers == "blocks":
        found = _found_layers(model, first, layers)  # type: ignore[arg-type]
    _warn_unless_function(model, first)
    if layers is not None and found:
        layers = ["input", *dict.fromkeys(name for name, _ in found), "output"]
    sums = accumulate_sums(model, probes, layers, batch_size, store, batch_norm, output)
    _report_constants(sums, constant)
    import pandas as pd  # here, because a job that only writes HDF5 does not need it

    table = pd.DataFrame(sensitivity_rows(sums), columns=COLUMNS)
    table.attrs.update(probes.made if isinstance(probes, Probes) else {})
    table.attrs.update(P=len(sums[0].diffeo) if sums else 0, batch_norm=batch_norm)
    table.attrs.update(relstab_version=relstab.__version__, torch_version=str(torch.__version__))
    if found:
        table.attrs["paper_layers"] = [list(layer) for layer in found]
    return table
