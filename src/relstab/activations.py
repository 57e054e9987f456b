"""Where a network applies activations: by modules or by functions, which of them follow weights, and which are gates."""

import dataclasses
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from relstab.paper_layers import ACTIVATION_FUNCTIONS, ACTIVATIONS, WEIGHTED

__all__ = ["FunctionalActivations", "Trace", "evaluating", "find_layers", "tensors"]

_PRODUCTS = {"mul", "__mul__", "__rmul__", "multiply", "__imul__"}
_CONVOLUTIONS = {f"conv{transpose}{axes}d" for transpose in ("", "_transpose") for axes in (1, 2, 3)} | {"linear", "bilinear"}
_MATRIX_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "einsum", "bmm", "mm", "addmm", "baddbmm", "tensordot"}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module gets its own mode back, also after an error."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _is_activation(module: nn.Module) -> bool:
    """Whether a module is one activation: it has neither children nor matrices of weights."""
    return not list(module.children()) and all(parameter.ndim < 2 for parameter in module.parameters())


@dataclass
class _Call:
    """A call of a module that has not returned yet."""

    name: str
    module: nn.Module
    functions: Counter[str] = field(default_factory=Counter)
    applied: list[int] = field(default_factory=list)


class FunctionalActivations(TorchFunctionMode):
    """Inside, ``record(name, kind, output)`` is called for each activation that is a function and not a module.

    The name is that of the module that applies it, the function, and which of its calls in this module it is:
    ``layer1.0.relu(2)`` is the second relu in ``layer1.0``. The kind is the function's name.
    """

    def __init__(self, model: nn.Module, record: Callable[[str, str, Tensor], None] = lambda *_: None) -> None:
        super().__init__()
        self._model = model
        self._record = record
        self._stack: list[_Call] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "FunctionalActivations":
        for name, module in self._model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # its functions cannot be seen
                continue
            self._handles.append(module.register_forward_pre_hook(self._begin(name)))
            # The module's own hooks run before this one.
            self._handles.append(module.register_forward_hook(self._end))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        self._stack.clear()

    def _begin(self, name: str) -> Callable[[nn.Module, Any], None]:
        def begin(module: nn.Module, _args: Any) -> None:
            self._stack.append(_Call(name, module))

        return begin

    def _end(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self.returned(self._stack.pop(), output)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, and record it where it is an activation."""
        result = func(*args, **(kwargs or {}))
        function = getattr(func, "__name__", "")
        if not function.startswith("__"):
            function = function.rstrip("_")
        self.ran(function, args, kwargs or {}, result)
        return result

    def ran(self, function: str, _args: Any, _kwargs: Any, result: Any) -> None:
        """A function of torch ran."""
        if function in ACTIVATION_FUNCTIONS and self._stack and isinstance(result, Tensor):
            call = self._stack[-1]
            if not _is_activation(call.module):
                self._record(self.name_of(call, function), function, result)

    def returned(self, _call: _Call, _output: Any) -> None:
        """A module returned."""

    @staticmethod
    def name_of(call: _Call, function: str) -> str:
        """Name of the next call of an activation function in a module."""
        call.functions[function] += 1
        return f"{call.name}.{function}({call.functions[function]})".lstrip(".")


@dataclass
class _Node:
    """A tensor of the trace: the nodes that it was computed from, and whether a weighted layer ran since the last activation.

    ``factors`` are the ids of those parents that gate it.
    """

    parents: list["_Node"]
    factors: set[int] = field(default_factory=set)
    of_images: bool = False
    of_parameters: bool = False
    pending: bool = False
    size: int = 0
    layer: "_Activation | None" = None


@dataclass
class _Activation:
    """An activation that follows a weighted layer."""

    name: str
    call: int
    block: tuple[type, type, str]
    gate: bool = False


def tensors(value: Any) -> Iterator[Tensor]:
    """Tensors among arguments or return values: a tensor, or tuples, lists, dicts and dataclasses of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value):
        yield from tensors(vars(value))


def _ancestors(node: _Node, through_factors: bool = True) -> Iterator[_Node]:
    """The node and all nodes that it was computed from."""
    waiting, seen = [node], {id(node)}
    while waiting:
        yield (node := waiting.pop())
        for parent in node.parents:
            if id(parent) not in seen and (through_factors or id(parent) not in node.factors):
                seen.add(id(parent))
                waiting.append(parent)


class Trace(FunctionalActivations):
    """Follows ``images`` through one forward pass inside of it, tensor by tensor."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__(model)
        self.activations: list[_Activation] = []
        self.called: list[str] = []
        self.weighted = 0
        self._modules = dict(model.named_modules())
        self._calls: Counter[str] = Counter()
        # Nodes by the ids of their tensors, and what takes a node away when its tensor ends, since another tensor may get its id.
        self._nodes: dict[int, _Node] = {}
        self._ends: dict[int, weakref.ref[Tensor]] = {}
        self._follow(images, _Node([], of_images=True, size=images.numel()))

    def _follow(self, tensor: Tensor, node: _Node) -> None:
        key, nodes = id(tensor), self._nodes
        nodes[key] = node
        self._ends[key] = weakref.ref(tensor, lambda _: nodes.pop(key))

    def _node(self, tensor: Tensor) -> _Node:
        return self._nodes.get(id(tensor)) or _Node([], of_parameters=isinstance(tensor, nn.Parameter))

    def _is_weighted(self, function: str, args: Any, kwargs: Any, result: _Node) -> bool:
        if not result.of_images:
            return False
        if function == "multi_head_attention_forward":
            return True
        if function in _MATRIX_PRODUCTS:
            return any(node.of_parameters and not node.of_images for node in result.parents)
        if function not in _CONVOLUTIONS:
            return False
        weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
        if not isinstance(weight, Tensor):
            return False
        node = self._node(weight)
        if node.of_images:
            self._mark_gates(node, result)  # it chooses the weights of a convolution
        return node.of_parameters or node.of_images or type(self._stack[-1].module).__name__ in WEIGHTED

    def ran(self, function: str, args: Any, kwargs: Any, result: Any) -> None:
        parents = [self._node(tensor) for tensor in (*tensors(args), *tensors(kwargs))]
        results = list(tensors(result)) if result is not None else [value for value in args[:1] if isinstance(value, Tensor)]
        if not parents or not results:
            return
        node = _Node(
            parents,
            of_images=any(parent.of_images for parent in parents),
            of_parameters=any(parent.of_parameters for parent in parents),
        )
        weighted = self._is_weighted(function, args, kwargs, node)
        self.weighted += weighted
        node.pending = weighted or any(parent.pending for parent in parents)
        first = results[0]
        # An expanded tensor has the size of the tensor that it was expanded from.
        node.size = math.prod(n for n, stride in zip(first.shape, first.stride(), strict=True) if stride)
        if function in _PRODUCTS and len(parents) > 1:
            for parent in parents:
                if parent.of_images and parent.size < first.numel():
                    self._mark_gates(parent, node)
        if function in ACTIVATION_FUNCTIONS and self._stack and node.of_images:
            self._activate(function, node)
        for tensor in results:
            self._follow(tensor, node)

    def _activate(self, function: str, node: _Node) -> None:
        call = self._stack[-1]
        if _is_activation(call.module):
            call.functions["pending"] += node.pending
            call.functions["applied"] += 1
        else:
            name = self.name_of(call, function)
            self._calls[name] += 1
            if node.pending:
                self._add(node, name)
        node.pending = False

    def _add(self, node: _Node, name: str) -> None:
        owner, _, last = name.rpartition(".")
        while isinstance(self._modules.get(owner), _CONTAINERS) and owner:
            owner, _, part = owner.rpartition(".")
            last = f"{part}.{last}"
        # The owner's owner, because a class such as Mlp may serve in gates and elsewhere.
        above = type(self._modules.get(owner.rpartition(".")[0]))
        node.layer = _Activation(name, self._calls[name], (above, type(self._modules[owner]), last))
        self.activations.append(node.layer)

    def returned(self, call: _Call, output: Any) -> None:
        if call.name not in self.called:
            self.called.append(call.name)
        if not _is_activation(call.module):
            return
        self._calls[call.name] += 1
        if not call.functions["applied"] and type(call.module).__name__ not in ACTIVATIONS:
            return
        for tensor in tensors(output):
            node = self._node(tensor)
            if node.of_images and (node.pending or call.functions["pending"]):
                self._add(node, call.name)
            node.pending = False

    @staticmethod
    def _mark_gates(factor: _Node, result: _Node) -> None:
        """Mark the activations from which a factor is computed, but none of the other operands."""
        result.factors.add(id(factor))
        others = {id(node) for operand in result.parents if operand is not factor for node in _ancestors(operand)}
        for node in _ancestors(factor):
            if id(node) not in others and node.layer is not None:
                node.layer.gate = True

    def end(self, output: Any) -> None:
        """The network has returned ``output``: an activation that reaches it also on a way without factors is no gate."""
        for tensor in tensors(output):
            for node in _ancestors(self._node(tensor), through_factors=False):
                if node.layer is not None:
                    node.layer.gate = False

    def found(self, which: Literal["paper", "blocks"]) -> list[tuple[str, int]]:
        """What :func:`find_layers` returns, after the images went through the network."""
        if which == "blocks":
            blocks = _blocks(self._model, self.called)
            if not blocks:
                raise ValueError(
                    f"expected blocks in {type(self._model).__name__}, found no class of modules with children that is repeated: "
                    f"name the layers, layers=[...]"
                )
            return [(name, 1) for name in blocks]
        gates = {activation.block for activation in self.activations if activation.gate}
        # No gate, and none that is a gate in another block of the same class.
        layers = [(layer.name, layer.call) for layer in self.activations if layer.block not in gates]
        if not layers:
            raise ValueError(
                f"expected activations after the weighted layers of {type(self._model).__name__}, found none: {self._cause()}"
            )
        return layers

    def _cause(self) -> str:
        if any(isinstance(module, torch.jit.ScriptModule) for module in self._model.modules()):
            return "scripted and traced modules hide what they apply; measure the module that was scripted"
        if not self.weighted:
            return "its forward pass applies no convolution or linear layer that torch can see"
        return f"{self.weighted} weighted layers ran, and no activation function after them; name the layers, layers=[...]"


def _blocks(model: nn.Module, called: Sequence[str]) -> list[str]:
    """Names of the blocks: those of timm's ``feature_info``, or else the outermost modules whose class is repeated."""
    infos = getattr(model, "feature_info", None)
    infos = getattr(infos, "info", infos)
    if isinstance(infos, list) and all(isinstance(info, dict) for info in infos):
        named = list(dict.fromkeys(info.get("module", "") for info in infos))
        if len(named) > 1 and set(named) <= set(called):
            return sorted(named, key=called.index)

    def candidates(module: nn.Module) -> bool:
        return bool(list(module.children())) and not isinstance(module, _CONTAINERS) and any(True for _ in module.parameters())

    counts = Counter(type(module) for module in model.modules() if candidates(module))
    blocks: list[str] = []
    for name, module in model.named_modules():
        if candidates(module) and counts[type(module)] > 1 and not any(name.startswith(f"{block}.") for block in blocks):
            blocks.append(name)
    return sorted((name for name in blocks if name in called), key=called.index)


def find_layers(model: nn.Module, images: Tensor, which: Literal["paper", "blocks"] = "paper") -> list[tuple[str, int]]:
    """Layers of a network in order of execution, found by sending images through it.

    Args:
        model: any module that takes ``images``; it runs once, in evaluation mode.
        images: [N, ...], two are enough.
        which: "paper" gives every activation, module or function, that follows a convolution or another product with weights
            (Tomasini et al., Eq. 2). Gates are left out: activations that make a factor which is spread over a larger
            tensor, as in squeeze and excitation. "blocks" gives residual and attention blocks: the modules of timm's
            ``feature_info``, or else the outermost modules whose class is repeated.

    Returns:
        For each layer its name, as in the table of :func:`relstab.measure_sensitivity`, and the number of its call, from 1.

    Raises:
        ValueError: the network has none; the message says why.
    """
    if which not in ("paper", "blocks"):
        raise ValueError(f"expected which to be 'paper' or 'blocks', got {which!r}")
    reference = next(model.parameters(), images)
    trace = Trace(model, images := images.to(reference.device, reference.dtype))
    with evaluating(model), trace:
        trace.end(model(images))
    return trace.found(which)
