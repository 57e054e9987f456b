"""A pretended GPU: tensors that say they are on cuda:0 and hold their numbers on the CPU.

Every operation is checked as CUDA checks it: tensors of two devices are an error, and so is a generator of another device than
the tensor that it fills. What the host waits for and what it copies to the device is counted, and can be refused. CUDA graphs are
recorded, operation by operation, and replayed in the memory in which they were recorded. This shows where tensors are and what a
graph repeats; it shows nothing of CUDA's kernels, their rounding or their speed.
"""

import contextlib
import functools
import sys
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")

_MOVES = {"aten::_to_copy", "aten::copy_", "aten::lift_fresh"}
# Their results, or the shapes of them, are numbers that the host must have before it can continue.
_WAITS = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2", "unique_consecutive",
        "unique_dim", "repeat_interleave.Tensor", "_linalg_eigh", "_linalg_svd",
    )
}  # fmt: skip
# What autocast computes in bfloat16, and what it computes in float32. Its own code asks C++, which knows no CUDA here.
_LOW = {"conv1d", "conv2d", "conv3d", "linear", "matmul", "mm", "bmm", "addmm", "__matmul__"}
_HIGH = {"cross_entropy", "log_softmax", "softmax", "sum", "norm"}


# Files of torch, and code without a file.
_OTHERS = (str(Path(torch.__file__).parent), "<")


class OnCuda(Tensor):
    """A tensor on meta for C++, whose autograd needs no device there, and on cuda:0 for Python."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCuda":
        new = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, layout=held.layout, device="meta"
        )
        new.held = held
        return new

    device = property(lambda _: CUDA)
    is_cuda = property(lambda _: True)
    is_meta = property(lambda _: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_options):
        return f"OnCuda({self.held!r})"

    def __format__(self, form):
        _present().count(_present().waits, "format")
        return repr(self) if self.ndim else format(self.held, form)

    def __deepcopy__(self, memo):
        with torch.no_grad():
            new = memo[id(self)] = self.detach().clone()
        new._is_param = getattr(self, "_is_param", False)
        return new.requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} of a pretended CUDA tensor outside of pretended_cuda")


class PretendedGenerator(torch._C.Generator):
    """A generator of the CPU that says on which device it is."""

    def __new__(cls, _device="cpu"):
        return super().__new__(cls)

    def __init__(self, device="cpu"):
        self._type = torch.device(device).type

    @property
    def device(self):
        return CUDA if self._type == "cuda" else CPU


def _where() -> str:
    """File and line of the innermost call outside torch and outside this file."""
    frame = sys._getframe(1)
    while frame.f_back and (frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(_OTHERS)):
        frame = frame.f_back
    return "/".join(Path(frame.f_code.co_filename).parts[-2:]) + f":{frame.f_lineno}"


@dataclass(frozen=True)
class _Operation:
    """What the schema of an operation says."""

    name: str
    waits: bool
    arguments: tuple[str, ...]
    written: tuple[str, ...]
    mutates: bool
    is_view: bool
    draws: bool

    def writes(self, args, kwargs) -> list[Tensor]:
        """The tensors among its arguments that it writes to."""
        if not self.written:
            return []
        values = dict(zip(self.arguments, args, strict=False)) | kwargs
        return [x for name in self.written for x in tree_flatten(values.get(name))[0] if isinstance(x, Tensor)]


@functools.cache
def _operation(func) -> _Operation:
    schema = func._schema
    written = [argument.name for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write]
    if schema.name == "aten::native_batch_norm":  # which its schema does not say
        written += ["running_mean", "running_var"]
    return _Operation(
        name=schema.name,
        waits=schema.name in _WAITS or f"{schema.name}.{func._overloadname}" in _WAITS,
        arguments=tuple(argument.name for argument in schema.arguments),
        written=tuple(written),
        mutates=schema.is_mutable,
        is_view=func.is_view,
        draws=torch.Tag.nondeterministic_seeded in func.tags,
    )


class PretendedGraph:
    """A CUDA graph: operations on fixed memory, with the numbers of Python that they had when they were recorded.

    Recording changes no memory and draws nothing from a generator, as on CUDA.
    """

    def __init__(self, **_options: Any) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.generators: list[Any] = []
        self._before: dict[int, tuple[Any, Any]] = {}

    def register_generator_state(self, generator) -> None:
        self.generators.append(generator)

    def pool(self):
        return (0, 0)

    def reset(self) -> None:
        self.operations.clear()

    @contextlib.contextmanager
    def recording(self, device: "PretendedCuda") -> Iterator[None]:
        states = [generator.get_state() for generator in (*self.generators, device.generator)]
        device.graph = self
        try:
            yield
        finally:
            device.graph = None
            for storage, copy in self._before.values():
                storage.copy_(copy)
            self._before.clear()
            for generator, state in zip((*self.generators, device.generator), states, strict=True):
                generator.set_state(state)

    def before(self, func, args, kwargs) -> None:
        """Keep what an operation writes over."""
        for tensor in _operation(func).writes(args, kwargs):
            storage = tensor.untyped_storage()
            self._before.setdefault(storage._cdata, (storage, storage.clone()))

    def after(self, func, args, kwargs, out) -> None:
        """Record what was done."""
        if not _operation(func).is_view:
            self.operations.append((func, args, kwargs, out))

    def replay(self) -> None:
        device = _present()
        device.launches += 1
        with torch.utils._python_dispatch._disable_current_modes():
            for func, args, kwargs, out in self.operations:
                result = device.compute(func, args, kwargs)
                if not _operation(func).mutates:
                    for old, new in zip(tree_flatten(out)[0], tree_flatten(result)[0], strict=True):
                        if isinstance(old, Tensor):
                            old.copy_(new)


class PretendedCuda(TorchDispatchMode):
    """The device inside :func:`pretended_cuda`.

    Attributes:
        waits: how often the host waited for the device, by operation and line.
        copies: how often it copied to the device, by operation and line.
        launches: operations on the device; one for a replayed graph.
        generator: the device's default one, of dropout.
        graph: that is being recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.launches = 0
        self.generator = PretendedGenerator("cuda")
        self.generator.manual_seed(torch.initial_seed())
        self.graph: PretendedGraph | None = None
        self.given_generator: Any = None
        self._refusing = False

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Inside, a wait or a copy is an error, as inside a CUDA graph."""
        before, self._refusing = self._refusing, True
        try:
            yield
        finally:
            self._refusing = before

    def count(self, counter: Counter[str], name: str) -> None:
        what = f"{name} at {_where()}"
        counter[what] += 1
        if self._refusing or self.graph:
            kind = "waits for the device" if counter is self.waits else "copies to the device"
            raise RuntimeError(f"{'a graph is recorded and ' if self.graph else ''}the host {kind}: {what}")

    def compute(self, func, args, kwargs):
        """An operation on what the tensors hold; without a generator, it draws from the device's default one."""
        if not _operation(func).draws or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(self.generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self.generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(before)

    def _check(self, func, args, kwargs, flat, on_cuda: bool) -> None:
        """Errors of CUDA, and what makes the host wait."""
        name = _operation(func).name
        here = [x for x in flat if isinstance(x, OnCuda)]
        elsewhere = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, OnCuda)]
        if kwargs.get("generator") is not None:
            generator = self.given_generator or torch.default_generator
            if (generator.device.type == "cuda") != on_cuda:
                device = "cuda:0" if on_cuda else "cpu"
                raise RuntimeError(f"{name} at {_where()}: a generator on {generator.device} for a tensor on {device}")
            if self.graph and on_cuda and generator not in self.graph.generators:
                raise RuntimeError(f"{name} at {_where()}: the graph does not know this generator (register_generator_state)")
        takes_indices = name.startswith(("aten::index", "aten::_index_put")) and isinstance(args[1], list | tuple)
        indices = [x for x in args[1] if isinstance(x, Tensor)] if takes_indices else []
        if here and elsewhere and name not in _MOVES:
            written = _operation(func).writes(args, kwargs)
            for x in elsewhere:
                is_index = any(x is index for index in indices)
                # A kernel takes one number of the host as an argument, and indices are copied.
                if any(x is y for y in written) or (x.ndim and not is_index):
                    raise RuntimeError(f"{name} at {_where()}: tensors on cuda:0 and on cpu, shape {tuple(x.shape)}")
                if is_index:
                    self.count(self.copies, name)
        masked = name == "aten::index" and any(x.dtype in (torch.bool, torch.uint8) for x in indices)
        if here and (masked or _operation(func).waits or (name == "aten::_to_copy" and not on_cuda)):
            self.count(self.waits, name)
        elif name == "aten::copy_" and isinstance(args[0], OnCuda) != isinstance(args[1], OnCuda):
            self.count(self.copies if isinstance(args[0], OnCuda) else self.waits, name)
        elif name == "aten::_to_copy" and on_cuda and elsewhere:
            self.count(self.copies, name)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat, spec = tree_flatten((args, kwargs))
        here = any(isinstance(x, OnCuda) for x in flat)
        asked = kwargs.get("device")
        on_cuda = here if asked is None else torch.device(asked).type in ("cuda", "meta")
        self._check(func, args, kwargs, flat, on_cuda)
        if not here and not on_cuda:
            return func(*args, **kwargs)
        held = [x.held if isinstance(x, OnCuda) else CPU if isinstance(x, torch.device) else x for x in flat]
        inner_args, inner_kwargs = tree_unflatten(held, spec)
        if self.graph:
            self.graph.before(func, inner_args, inner_kwargs)
        out = self.compute(func, inner_args, inner_kwargs)
        if self.graph:
            self.graph.after(func, inner_args, inner_kwargs, out)
        operation = _operation(func)
        self.launches += not operation.is_view
        if not on_cuda:
            return out
        out = tree_map(lambda x: OnCuda(x) if isinstance(x, Tensor) else x, out)
        if here and (operation.mutates or operation.is_view):
            return return_and_correct_aliasing(func, args, kwargs, out)
        return out


class _Functions(TorchFunctionMode):
    """What is above autograd: moves, for which C++ would ask a CUDA that is not there, autocast, and the generators' devices."""

    def __init__(self, device: PretendedCuda) -> None:
        super().__init__()
        self._device = device
        self._cast: dict[int, Tensor] = {}

    def _move(self, tensor, *args, **kwargs):
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype)
        copy = kwargs.pop("copy", False)
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype = device or tensor.device, dtype or tensor.dtype
        if not copy and layout is None and (device.type, dtype) == (tensor.device.type, tensor.dtype):
            return tensor
        return torch.ops.aten._to_copy(tensor, dtype=dtype, device=device, memory_format=layout)

    def _lower(self, x):
        """In bfloat16, weights once per block of autocast."""
        if not isinstance(x, OnCuda) or x.dtype != torch.float32:
            return x
        if not (x.requires_grad and x.is_leaf):
            return x.to(torch.bfloat16)
        if id(x) not in self._cast:
            self._cast[id(x)] = x.to(torch.bfloat16)
        return self._cast[id(x)]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is Tensor.to:
            return self._move(*args, **kwargs)
        if func is Tensor.cuda:
            return self._move(args[0], CUDA)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None and not isinstance(args[0], OnCuda):
            return self._move(func(*args, **{**kwargs, "device": "cpu"}), torch.device(kwargs["device"]))
        if args and isinstance(args[0], OnCuda) and func is Tensor.numpy:
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy: {_where()}")
        if args and isinstance(args[0], OnCuda) and func is Tensor.tolist:
            self._device.count(self._device.waits, "tolist")
            return args[0].held.tolist()
        if not torch.is_autocast_enabled("cuda"):
            self._cast.clear()
        elif name in _LOW:
            args = tuple(self._lower(x) for x in args)
        elif name in _HIGH:
            args = tuple(x.float() if isinstance(x, OnCuda) and x.is_floating_point() else x for x in args)
        # In a dispatch mode, a generator no longer says on which device it is.
        generators = (x for x in (*args, *kwargs.values()) if isinstance(x, torch._C.Generator))
        self._device.given_generator = next(generators, None)
        return func(*args, **kwargs)


class PretendedStream:
    def __init__(self, *_args: Any, **_options: Any) -> None:
        self.device = CUDA

    def wait_stream(self, _other) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


_devices: list[PretendedCuda] = []


def _present() -> PretendedCuda:
    return _devices[-1]


@contextlib.contextmanager
def _graph(cuda_graph: PretendedGraph, **_options: Any) -> Iterator[None]:
    with cuda_graph.recording(_present()):
        yield


@contextlib.contextmanager
def _stream(_stream: Any) -> Iterator[None]:
    yield


@contextlib.contextmanager
def pretended_cuda(capability: tuple[int, int] = (9, 0), memory: int = 80 * 2**30) -> Iterator[PretendedCuda]:
    """Inside, torch has one CUDA device.

    Args:
        capability: its compute capability.
        memory: bytes that are free on it, as it says; nothing is limited by them.
    """
    device, stream = PretendedCuda(), PretendedStream()
    properties = types.SimpleNamespace(
        name="pretended", uuid="pretended", major=capability[0], minor=capability[1], total_memory=memory, multi_processor_count=1
    )
    answers: dict[str, Any] = {
        "is_available": True, "device_count": 1, "current_device": 0, "_lazy_init": None, "is_initialized": True, "init": None,
        "get_device_capability": capability, "is_bf16_supported": True, "empty_cache": None, "synchronize": None,
        "get_device_properties": properties, "get_device_name": "pretended", "mem_get_info": (memory, memory),
        "get_arch_list": [f"sm_{capability[0]}{capability[1]}"], "current_stream": stream, "default_stream": stream,
        "graph_pool_handle": (0, 0), "memory_allocated": 0, "max_memory_allocated": 0, "reset_peak_memory_stats": None,
    }  # fmt: skip
    functions: dict[str, Any] = {name: lambda *_, answer=answer, **__: answer for name, answer in answers.items()}
    functions |= {
        "get_rng_state": lambda *_: device.generator.get_state(),
        "set_rng_state": lambda state, *_: device.generator.set_state(state),
        "manual_seed": device.generator.manual_seed,
        "manual_seed_all": device.generator.manual_seed,
        "is_current_stream_capturing": lambda: device.graph is not None,
        "Stream": PretendedStream, "stream": _stream, "CUDAGraph": PretendedGraph, "graph": _graph,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(torch, "Generator", PretendedGenerator))
        overwrite, lift = torch.__future__.get_overwrite_module_params_on_conversion(), torch._C._only_lift_cpu_tensors()
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lift)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.enter_context(_Functions(device))
        stack.enter_context(device)
        _devices.append(device)
        stack.callback(_devices.pop)
        yield device
