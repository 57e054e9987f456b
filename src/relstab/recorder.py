"""Watches the layers of a network while perturbed versions of images go through it, and reduces each layer as it is computed."""

import contextlib
import fnmatch
import functools
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import StorageWeakRef

from relstab.activations import FunctionalActivations, Trace, evaluating, tensors
from relstab.layer_sums import LayerAccumulator, Scratch
from relstab.runs.devices import repeatable
from relstab.runs.nearest import nearest
from relstab.sensitivity_table import LayerSums

__all__ = ["Recorder", "RepresentationStore", "Trial", "departure", "floating_tensors", "placed", "unwrapped"]

_Key = tuple[str, str, int]
"""Name and kind of a layer, and the number of its call in a pass; 0 for all calls."""
# Differences of two outputs, as parts of their largest entry: up to the first they are rounding; from the second on they are not.
_ROUNDING, _CHANGE = 1e-3, 1e-2


def floating_tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in a module's output."""
    return (tensor for tensor in tensors(value) if tensor.is_floating_point())


class _NotByImageError(ValueError):
    """The output of a module does not have the images along its first axis."""


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
    count = len(list(floating_tensors(value)))
    if warn and count > 1:
        warnings.warn(
            f"the output is {count} tensors ({names[:80] or type(value).__name__}), which are measured as one; choose a part "
            f"with output=, a name or a function",
            stacklevel=5,
        )
    return value


def _by_image(value: Any, batch: int, layer: str) -> Tensor:
    """A module's output as one tensor [batch, ...]; several tensors as one matrix [batch, features]."""
    parts = [tensor for tensor in floating_tensors(value) if tensor.numel()]
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


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile or a data-parallel wrapper: there, hooks see every layer and whole batches."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    original = getattr(model, "_orig_mod", None)  # set by torch.compile
    if isinstance(original, nn.Module):
        return unwrapped(original)
    if not isinstance(model, nn.Module):
        hint = "; torch.export.unflatten(program) is one" if isinstance(model, torch.export.ExportedProgram) else ""
        raise ValueError(f"expected model to be a torch.nn.Module, got {type(model).__name__}{hint}")
    return model


class RepresentationStore(Protocol):
    """Where representations are stored beside the sums, see :class:`relstab.files.activations.ActivationStore`."""

    def wants(self, layer: str) -> bool:
        """Whether it stores a layer of this name."""

    def add(self, layer: str, kind: str, call: int, value: Tensor, rows: NDArray[np.int64]) -> None:
        """Store one batch [3 B, ...] of a layer; ``rows`` are the positions of its images among the probes, [B]."""


def placed(model: nn.Module, images: Tensor) -> Tensor:
    """Images on the device and in the precision of a network."""
    reference = next(itertools.chain(model.parameters(), model.buffers()), images)
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
    return images.to(reference.device, dtype)


def _numbered(names: Iterable[str]) -> list[tuple[str, int]]:
    """Each name, and how many times it came up to there."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append((name, seen[name]))
    return result


def _warn_left_out(names: Iterable[str], stacklevel: int) -> None:
    warnings.warn(f"left out, since they return nothing by image in every batch: {', '.join(names)}", stacklevel=stacklevel + 1)


def _function_call(name: str, kind: str) -> _Key:
    return name, kind, 0


def _copies(output: Any) -> list[Tensor]:
    return [tensor.clone() for tensor in floating_tensors(output)]


def _states_of_generators(images: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if images.is_cuda else [])]


def _comparable(outputs: list[Tensor], others: list[Tensor], images: int) -> list[tuple[Tensor, Tensor]]:
    """What two outputs say of the first images of a batch, where it has the same shape."""
    pairs = [[tensor[:images] if tensor.ndim else tensor for tensor in pair] for pair in zip(outputs, others, strict=False)]
    return [(first, second) for first, second in pairs if first.shape == second.shape]


def _close(pairs: list[tuple[Tensor, Tensor]], tolerance: float) -> bool:
    """Whether the numbers of each pair differ by no more than this part of the largest one."""
    scales = [float(second.nan_to_num(0, 0, 0).abs().max()) if second.numel() else 0.0 for _, second in pairs]
    return all(
        torch.allclose(first, second, rtol=0, atol=tolerance * scale, equal_nan=True)
        for (first, second), scale in zip(pairs, scales, strict=True)
    )


def departure(model: nn.Module, images: Tensor, of_two: list[Tensor] | None = None) -> Literal["random", "company"] | None:
    """Why a network in evaluation mode is not a function of one image; None where it is one.

    A "random" network draws random numbers: its R is about 1, whatever the network is. A "company" network gives an image another
    output among other images: its D and G depend on the size of the batch.

    Args:
        model: any module.
        images: [N, ...]; two are put through the network, and one of them alone. If its outputs differ, or the network takes no
            single image, three are put through twice, which tells the causes apart.
        of_two: the floating-point tensors that the network returned for the first two images, if they are known.
    """
    batch = placed(model, images[:3])

    def output(count: int) -> list[Tensor]:
        return _copies(model(batch[:count]))

    with evaluating(model), repeatable(batch.device):
        before = _states_of_generators(batch)
        of_two = of_two or output(2)
        try:
            pairs = _comparable(of_two, output(1), 1)
            is_function = len(pairs) == len(of_two) and _close(pairs, _ROUNDING)
        except Exception:  # a model may need several images; those that cannot take three raise below
            is_function = False
        if not all(map(torch.equal, before, _states_of_generators(batch))):
            return "random"
        if is_function:
            return None
        of_three = output(3)
        if not _close(_comparable(output(3), of_three, 3), _ROUNDING):
            return "random"
    return None if _close(_comparable(of_two, of_three, 2), _CHANGE) else "company"


def _is_faster_in_channels_last(model: nn.Module, images: Tensor) -> bool:
    """Whether torch convolves these images faster in channels_last: with oneDNN on a CPU, in float32."""
    has_onednn = images.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not has_onednn or images.dtype != torch.float32 or images.ndim != 4:
        return False
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


class Trial:
    """What one pass of two images tells before a measurement.

    On a CPU convolutional networks are tried in channels_last first. It takes up to half of the time of a pass away and changes
    activations by rounding alone. Networks that cannot run so, such as those that call ``view``, or whose outputs differ from
    those in the layout of the images, keep that layout.

    Args:
        model: any module.
        images: of the measurement; the first two, and one of them alone for the check.
        which: layers to find, see :func:`relstab.find_layers`.
        check: whether to look for a :func:`departure`.
        required: whether they are the rows, so that a network without them is an error.

    Attributes:
        layers: those that were found, or None; those that are not by image are left out.
        left_out: names of these.
        departure: why the network is not a function of one image, if that was looked for; or None.
        not_by_image: layers whose output does not have the images along its first axis, and the error of each. A layer [tokens,
            batch, features] with three times as many tokens as images has them there for one size of batch alone.
        channels_last: whether :meth:`placed` returns images in this memory layout.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        which: Literal["paper", "blocks"] | None = None,
        check: bool = False,
        required: bool = False,
    ) -> None:
        self.layers: list[tuple[str, int]] | None = None
        self.left_out: list[str] = []
        self.departure: str | None = None
        self.not_by_image: dict[_Key, _NotByImageError] = {}
        self._paper_alone = which == "paper" and required
        self.channels_last = False
        self._model = model
        self._calls: Counter[tuple[str, str]] = Counter()
        if len(images) < (1 if which or check else 2):
            return
        layouts = (True, False) if _is_faster_in_channels_last(model, placed(model, images[:0])) else (False,)
        traced = (True,) if required else (True, False) if which else (False,)
        for self.channels_last, is_traced in itertools.product(layouts, traced):
            batch = self.placed(images[:2])
            trace = Trace(model, batch) if is_traced else None
            try:
                output = self._run(batch, trace)
                if trace is not None and which is not None:
                    found = trace.found(which)
                    odd = {name for name, *_ in self.not_by_image}
                    self.layers = [layer for layer in found if layer[0] not in odd]
                    self.left_out = list(dict.fromkeys(name for name, _ in found if name in odd))
            except Exception:  # a model may take one size of batch alone; the measurement reports any other error
                if required and not self.channels_last:
                    raise
                continue
            if check or self.channels_last:
                self._compare(images, output)
            return

    def _compare(self, images: Tensor, output: list[Tensor]) -> None:
        """Compare the output for two images with that for one of them alone, in the layout of the images."""
        try:
            self.departure = departure(self._model, images, output)
            is_layout = self.departure == "company" and self.channels_last and departure(self._model, images) is None
        except Exception:  # as for the sizes of a batch above
            is_layout = True
        if is_layout:
            self.departure, self.channels_last = None, False

    def placed(self, images: Tensor) -> Tensor:
        """Images on the device, in the precision and in the memory layout in which the network is measured."""
        images = placed(self._model, images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def rows(self) -> list[str]:
        """Names of the input, the layers that were found, and the output; a warning names layers that were left out."""
        if not self.layers and self.left_out:
            raise next(error for (name, *_), error in self.not_by_image.items() if name == self.left_out[0])
        if self.left_out:
            _warn_left_out(self.left_out, stacklevel=4)
        return ["input", *dict.fromkeys(name for name, _ in self.layers or ()), "output"]

    def of_layers(self, sums: list[LayerSums]) -> tuple[list[LayerSums], list[tuple[str, int]] | None]:
        """Of the sums of :meth:`rows`, those of the calls that were found, and these layers as they are numbered then.

        A module may apply its activation also where no weights came before.
        """
        if not self._paper_alone:
            return sums, self.layers
        calls = _numbered(layer.layer for layer in sums)
        found = {*(self.layers or ())}
        chosen = [layer for layer, call in zip(sums, calls, strict=True) if layer.kind in ("input", "output") or call in found]
        return chosen, _numbered(layer.layer for layer in chosen if layer.kind not in ("input", "output"))

    def _run(self, images: Tensor, trace: Trace | None) -> list[Tensor]:
        self._calls.clear()
        self.not_by_image.clear()

        def look(key: _Key, value: Any) -> None:
            try:
                _by_image(value, len(images), key[0])
            except _NotByImageError as error:
                self.not_by_image[key] = error.with_traceback(None)  # which would keep the tensor

        def hook(name: str, module: nn.Module, _args: Any, value: Any) -> None:
            kind = type(module).__name__
            self._calls[name, kind] += 1
            look((name, kind, self._calls[name, kind]), value)

        def function(name: str, kind: str, value: Tensor) -> None:
            if value.is_floating_point() and len(images) > 1:
                look(_function_call(name, kind), value)

        with repeatable(images.device), evaluating(self._model), contextlib.ExitStack() as stack:
            for name, module in self._model.named_modules() if len(images) > 1 else ():
                if name and not isinstance(module, torch.jit.ScriptModule):
                    stack.callback(module.register_forward_hook(functools.partial(hook, name)).remove)
            stack.enter_context(FunctionalActivations(self._model, function))
            if trace is not None:
                stack.enter_context(trace)
            output = self._model(images)
            if trace is not None:
                trace.end(output)
            return _copies(output)


def _keep(layer: LayerAccumulator, values: NDArray[np.float64]) -> None:
    """Keep what ``layer.add`` returned for a batch, if it is finite."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"expected finite activations, got NaN, infinite ones or ones too large to square from layer "
            f"{layer.layer!r} ({layer.kind})"
        )
    layer.keep(values)


@dataclass
class _SameSums:
    """Sums of a layer that returns what the layer before returned, as identities, dropout and permutations of axes do."""

    layer: str
    kind: str
    of: LayerAccumulator
    images: int = 0

    def finish(self, order: NDArray[np.int64] | None = None) -> LayerSums:
        """See :meth:`relstab.layer_sums.LayerAccumulator.finish`."""
        return replace(self.of.finish(order), layer=self.layer, kind=self.kind)


def _writes(tensor: Tensor) -> int | None:
    """How many times torch wrote to the memory of a tensor; None where it does not count, in inference mode and subclasses."""
    return tensor._version if type(tensor) is Tensor and not tensor.is_inference() else None


def _some(matrix: Tensor) -> Tensor:
    """Some thirty entries, spread over images and features; none on a GPU, which would have to be waited for."""
    images, features = matrix.shape if matrix.device.type == "cpu" else (0, 0)
    return matrix[: images : max(1, images // 4), : features : max(1, features // 8)].clone()


class _LastSummed:
    """Where the last representation that was summed is in memory, which it does not keep."""

    def __init__(self, matrix: Tensor, sums: LayerAccumulator) -> None:
        self.sums = sums
        self._memory = StorageWeakRef(matrix.untyped_storage())
        self._where = matrix.data_ptr(), matrix.shape, matrix.stride()
        self._writes, self._some = _writes(matrix), _some(matrix)

    def is_in(self, matrix: Tensor) -> bool:
        """Whether ``matrix`` is the same memory, and nothing has been written to it since, also not past torch, by ``.data``."""
        if self._writes != _writes(matrix) or self._memory.expired():  # in which case another tensor may have its place
            return False
        return self._where == (matrix.data_ptr(), matrix.shape, matrix.stride()) and torch.equal(self._some, _some(matrix))


class Recorder:
    """Sends batches of versions of images through a network and accumulates the sums of each layer, call by call.

    Args:
        model: the network itself, see :func:`unwrapped`.
        layers: names and patterns, as in :func:`relstab.measure_sensitivity`.
        trial: of this network.
        perturbations: V; a batch holds the images, then each of their V perturbed versions.
        tangents: whether the network gets the images alone, with a tangent each; V is 1.
        medians: whether to keep the output for its medians.
        store: object that also gets the representations.
        output: the part of the model's output that is measured, as in :func:`relstab.measure_sensitivity`.

    Attributes:
        bytes_per_image: of the largest representation seen, one version.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] | None,
        trial: Trial,
        perturbations: int = 2,
        tangents: bool = False,
        medians: bool = False,
        store: RepresentationStore | None = None,
        output: str | Callable[[Any], Any] | None = None,
    ) -> None:
        self.bytes_per_image = 0
        self._model = model
        self._named, others = _chosen_layers(model, layers)
        self._rows_of = {*self._named, *others}
        self._patterns = [layers] if isinstance(layers, str) else layers
        if self._rows_of - {"input", "output"} and any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise ValueError(
                "expected a model that runs in Python, got a scripted or traced one, whose layers cannot be watched; measure the "
                "module that it was made from, or layers=['input', 'output']"
            )
        for (name, _, call), error in trial.not_by_image.items():
            if name in self._named and call:
                raise error
        self._not_by_image = trial.not_by_image
        self._versions = 1 if tangents else perturbations + 1
        self._accumulator = functools.partial(LayerAccumulator, perturbations=perturbations, are_changes=tangents)
        self._tangents, self._medians, self._store, self._output = tangents, medians, store, output
        self._sums: dict[_Key, LayerAccumulator | _SameSums] = {}
        self._last: _LastSummed | None = None
        self._shared: set[int] = set()
        self._left_out: set[str] = set()
        self._order: list[NDArray[np.int64]] = []
        self._batch = 0
        self._calls: Counter[tuple[str, str]] = Counter()
        self._scratch = Scratch()
        self._axes: dict[_Key, list[int]] = {}
        self._pending: list[tuple[LayerAccumulator, Tensor]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, batches can be sent."""
        with contextlib.ExitStack() as stack:
            for name, module in self._model.named_modules():
                if name in self._rows_of and name:
                    stack.callback(module.register_forward_hook(functools.partial(self._hook, name)).remove)
                elif not list(module.children()) and not isinstance(module, torch.jit.ScriptModule):
                    stack.callback(module.register_forward_hook(self._measure_size).remove)
            stack.enter_context(FunctionalActivations(self._model, self._record_function))
            yield

    def send(self, rows: NDArray[np.int64], stacked: Tensor) -> None:
        """Send one batch.

        Args:
            rows: positions of its B images among all, [B].
            stacked: the versions, [(V + 1) B, ...].
        """
        self._batch = len(stacked)
        self._order.append(rows)
        self._calls.clear()
        self._measure_size(self._model, None, stacked)
        if "input" in self._rows_of:
            self._record("input", "input", stacked)
        output = self._model(stacked)
        if "output" in self._rows_of:
            self._record("output", "output", _chosen_output(output, self._output, warn=len(self._order) == 1))
        self._end()

    def _measure_size(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Forward hook of layers that are not recorded, but take memory."""
        size = max((tensor.numel() * tensor.element_size() for tensor in floating_tensors(output)), default=0)
        self.bytes_per_image = max(self.bytes_per_image, size // self._batch)

    def _hook(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        # Without this, FunctionalActivations would see each operation of the sums: a tenth of the time of a small network.
        with torch._C.DisableTorchFunction():
            self._measure_size(module, args, output)
            self._record(name, type(module).__name__, output)

    def _record_function(self, name: str, kind: str, value: Tensor) -> None:
        """Record the output of an activation function if the images are along its first axis: a table of positions has none."""
        if self._patterns is not None and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns):
            return
        if not value.is_floating_point() or _function_call(name, kind) in self._not_by_image:
            return
        if value.ndim and len(value) == self._batch:
            self._record(name, kind, value)

    def _record(self, name: str, kind: str, value: Any) -> None:
        """Reduce the output of a layer, before the next layer can change it in place."""
        # The kind is in the key because a module may be called "input" or "output" as well.
        self._calls[name, kind] += 1
        key = (name, kind, self._calls[name, kind])
        try:
            if key in self._not_by_image:
                raise self._not_by_image[key]
            tensor = _by_image(value, self._batch, name)
        except _NotByImageError as error:
            if name in self._named or kind in ("input", "output"):
                raise
            self._not_by_image[key] = error.with_traceback(None)
            self._left_out.add(name)
            return
        if self._store is not None and self._store.wants(name):
            self._store.add(*key, tensor, self._order[-1])
        if key not in self._axes:
            self._axes[key] = _axes_in_memory(tensor)
        if tensor.ndim != len(self._axes[key]):
            raise ValueError(
                f"expected layer {name!r} to return as many axes in every batch, got {len(self._axes[key])}, then {tensor.ndim}"
            )
        matrix = tensor.permute(self._axes[key]).reshape(self._batch, -1)
        if self._tangents:
            primal, tangent = forward_ad.unpack_dual(matrix)
            matrix = torch.cat([primal, torch.zeros_like(primal) if tangent is None else tangent])
        matrix = matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
        sums = self._sums.get(key)
        if not isinstance(sums, LayerAccumulator):
            same = self._last.sums if self._last is not None and kind != "output" and self._last.is_in(matrix) else None
            if sums is None and same is not None:
                sums = self._sums[key] = _SameSums(name, kind, same)
                self._shared.add(id(same))
            if sums is not None:
                # Should it return anything else one day, it lacks these images and is left out.
                sums.images += self._batch // self._versions if sums.of is same else 0
                return
            sums = self._sums[key] = self._accumulator(name, kind, self._scratch)
        # Layers that none shared the sums of at first are shared by none later.
        is_watched = not sums.images or id(sums) in self._shared
        values = sums.add(matrix)
        self._last = _LastSummed(matrix, sums) if is_watched and _writes(matrix) is not None else None
        if values.device.type == "cpu":  # kept at once: small tensors that stay would lie between the large ones that come and go
            _keep(sums, values.numpy())
        else:
            self._pending.append((sums, values))
        if kind == "output" and self._medians:
            sums.keep_representation(matrix)

    def _end(self) -> None:
        """Fetch the sums of the batch and check that they are finite: once per batch, since a GPU has to be waited for."""
        self._last = None
        if not self._pending:
            return
        device = self._pending[0][1].device
        batch = torch.stack([values.to(device, non_blocking=True) for _, values in self._pending]).cpu().numpy()
        for (layer, _), values in zip(self._pending, batch, strict=True):
            _keep(layer, values)
        self._pending.clear()

    def finish(self, stacklevel: int = 4) -> list[LayerSums]:
        """Sums of every layer in order of execution, after the last batch; ``stacklevel`` is that of its warning."""
        order = np.concatenate([np.arange(0), *self._order])
        if len(order) < 2:
            raise ValueError(f"expected probes of at least 2 images, and 500 are usual, got {len(order)} image(s)")
        for name in self._named:
            if not any(layer.layer == name for layer in self._sums.values()):
                raise ValueError(f"expected layers that the forward pass calls, got {name!r}, which it never calls")
        # A layer that some batches did not reach would have D, G and R of other images than the rest.
        left_out = self._left_out | {layer.layer for layer in self._sums.values() if layer.images < len(order)}
        if left_out:
            _warn_left_out(sorted(left_out), stacklevel)
        # The output comes last in each batch, but a layer may be called for the first time in a later batch.
        complete = sorted(self._sums.values(), key=lambda layer: layer.kind == "output")
        return [layer.finish(order) for layer in complete if layer.layer not in left_out]
