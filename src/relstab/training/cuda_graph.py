"""The step of a training run as one CUDA graph: one launch for the whole step instead of one per kernel.

A small network on a GPU spends its time on launches: a step of LeNet is 70 kernels of 2 microseconds that take 6 each to launch.
A graph holds the kernels of one step, from the choice of the images to the new weights, with the addresses of what they read and
write, and is replayed with one launch. Whatever changes from step to step lies at a fixed address: the numbers of the images,
the learning rate, the total of the losses. The kernels, their order and the random numbers are those of the step without a graph,
and so are the weights, bit for bit. The first step of a graph is compared with the same step without it.
"""

import contextlib
import math
import random
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["GraphedStep", "graphs_are_possible"]

# Steps before the graph: in the first, the optimizer makes its moments, and CUDA's libraries set themselves up.
_EAGER_STEPS = 3
# Largest difference between a step of the graph and the same step without it, relative to the length of the step. Kernels that
# add in any order, in networks of users, differ by rounding; a graph that lost or repeats something differs by about 1.
_TOLERANCE = 0.01


class Updates(Protocol):
    """What a graph needs of a training run, :class:`relstab.training.training_run.TrainingRun`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    device: torch.device

    @property
    def title(self) -> str:
        """Name of the run in messages."""

    def update(self, chosen: Tensor) -> None:
        """A step without a graph on the images ``chosen``."""

    def changing(self) -> list[Tensor]:
        """All tensors that :meth:`update` changes, at fixed addresses."""


def graphs_are_possible(device: torch.device) -> bool:
    """Whether a device takes CUDA graphs."""
    return device.type == "cuda" and torch.backends.cuda.is_built()


class GraphedStep:
    """The steps of one training run: three without a graph, then the graph; batches of another size always without it.

    Where the step cannot be a graph, one line says why, and all steps are without it.
    """

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self._chosen = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._eager_steps = 0
        self._replay: Callable[[], None] | None = None
        self._refused = False

    def update(self, run: Updates, chosen: Tensor) -> None:
        """``run.update``, by the graph where there is one."""
        if self._refused or len(chosen) != len(self._chosen):
            run.update(chosen)
            return
        if self._eager_steps < _EAGER_STEPS:
            self._eager_steps += 1
            if self._eager_steps < _EAGER_STEPS:
                run.update(chosen)
            elif why := watch(lambda: run.update(chosen), run.model):
                self._refuse(run, why)
            return
        self._chosen.copy_(chosen)
        if self._replay is None:
            self._capture(run)
        else:
            self._replay()

    def _capture(self, run: Updates) -> None:
        """Make the graph, and do its first step; where it fails or does another step than ``run.update``, do that."""
        states = run.generator.get_state(), torch.cuda.get_rng_state(run.device)
        before = [tensor.clone() for tensor in run.changing()]
        run.update(self._chosen)
        expected = [tensor.clone() for tensor in run.changing()]
        after = run.generator.get_state(), torch.cuda.get_rng_state(run.device)
        _restore(run.changing(), before)
        run.optimizer.zero_grad(set_to_none=True)  # gradients live in the memory of the graph
        run.generator.set_state(states[0])
        torch.cuda.set_rng_state(states[1], run.device)
        # Fused Adam can be captured as it is, and asks for this flag, which would warn in a step without a graph.
        groups = [group for group in run.optimizer.param_groups if "capturable" in group]
        for group in groups:
            group["capturable"] = True
        why = ""
        try:
            replay = capture(lambda: run.update(self._chosen), [run.generator], run.device)
            replay()
            length = math.sqrt(_squared_distance(expected, before))
            error = math.sqrt(_squared_distance(run.changing(), expected))
            if not error <= _TOLERANCE * length:
                why = f"a graph made a step that is off by {error:.1e}, and the step without one has length {length:.1e}"
            else:
                self._replay = replay
        except RuntimeError as failure:
            cause: BaseException = failure
            while cause.__context__ is not None:  # the end of the graph fails with an error about itself
                cause = cause.__context__
            why = str(cause).partition("\n")[0]
        finally:
            for group in groups:
                group["capturable"] = False
        if why:
            self._refuse(run, why)
            _restore(run.changing(), expected)
            run.generator = replace_generators(run.device, *after)

    def _refuse(self, run: Updates, why: str) -> None:
        self._refused = True
        print(f"{run.title}: steps without a CUDA graph, which is slower and gives the same weights ({why})", flush=True)


def _restore(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Give tensors their values again, at their addresses."""
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _squared_distance(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    """Sum of squared differences, in float64."""
    parts = [(a.detach().double() - b.detach().double()).square().sum() for a, b in zip(tensors, others, strict=True)]
    return float(torch.stack(parts).sum())


def _host_state(model: nn.Module) -> tuple[Any, ...]:
    """State of the host that a step may not change, since a graph would not change it."""
    numbers = [
        {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}
        for module in model.modules()
    ]
    return numbers, torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


def watch(step: Callable[[], None], model: nn.Module) -> str:
    """Do a step, and find what a graph of it would lose: waits of the host, random numbers and counters on the host.

    Networks of relstab have none; the code of users may.

    Returns:
        Why the step cannot be a graph; empty if it can.
    """
    before, mode = _host_state(model), torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    waits = []
    for warning in caught:
        if "called a synchronizing CUDA operation" in str(warning.message):
            waits.append(f"the host waits for the device in line {warning.lineno} of {warning.filename}")
        elif "prototype feature" not in str(warning.message):  # torch's warning about the mode itself
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if waits:
        return waits[0]
    return "" if _host_state(model) == before else "the network changes numbers or draws random numbers on the host"


def capture(body: Callable[[], None], generators: Iterable[torch.Generator], device: torch.device) -> Callable[[], None]:
    """Record the kernels of ``body``, without running them, as a CUDA graph.

    Args:
        body: launches the kernels; must neither wait for the device nor copy to or from the host.
        generators: those that it draws from, besides torch's own.
        device: of the kernels.

    Returns:
        Runs the kernels once, on the present stream.

    Raises:
        RuntimeError: they cannot be a graph, or there is no memory for it.
    """
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    needed = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    if free < 2 * needed:  # the last batch of an epoch, which is no graph, needs as much beside it
        raise RuntimeError(f"a graph needs {2 * needed / 2**20:.0f} MiB of GPU memory, and {free / 2**20:.0f} MiB are free")
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    present = torch.cuda.current_stream(device)
    # CUDA records no default stream. Graphs that run at the same time must not share the stream they were recorded on, with its
    # scratch memory, and so each runs on its own where there are several.
    stream = torch.cuda.Stream(device) if present == torch.cuda.default_stream(device) else present
    pool = torch.cuda.graph_pool_handle()
    try:
        # If the graph fails, torch leaves its stream as the present one; the outer block sets the former stream again.
        with torch.cuda.stream(stream), torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            body()
    except RuntimeError:
        # Some versions of torch would take further memory for the graph that failed, and refuse to free any.
        with contextlib.suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(_index(device), pool)
        raise
    return graph.replay


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def replace_generators(device: torch.device, own: Tensor, default: Tensor) -> torch.Generator:
    """Replace the generators after a graph that failed, in which they still count, by new ones in their former states.

    Args:
        device: of the graph.
        own: state of the generator of the run.
        default: state of torch's own generator of the device, which becomes the present one.

    Returns:
        The new generator of the run.
    """
    present = torch.cuda.default_generators[_index(device)]
    fresh = torch.Generator(device)
    fresh.set_state(default)
    present.graphsafe_set_state(fresh)
    generator = torch.Generator(device)
    generator.set_state(own)
    return generator
