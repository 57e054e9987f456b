"""Several networks that are trained at the same time on one GPU, by one process.

A small network leaves most of a GPU idle: its kernels are small, and there are gaps between them. Here each network has a stream
of its own, in which the graphs of its steps wait in line, and the GPU runs those of all streams side by side. A network shares
nothing with the others, neither memory nor random numbers nor kernels: it ends with the weights that it has alone, bit for bit.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from relstab.files.network import TrainedNetwork
from relstab.runs.devices import choose_device, repeatable
from relstab.training.checkpointer import Checkpointer, listening
from relstab.training.train import prepare, steps, train_network
from relstab.training.training_run import TrainingRun

__all__ = ["train_networks"]

# Steps that one network puts in line before it is the turn of the next one.
_STEPS_PER_TURN = 20


class _Lane:
    """A stream, and torch's own generators, of one network."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._index = torch.cuda.current_device() if device.index is None else device.index
        self._on_device = torch.Generator(device)
        self._on_host = torch.get_rng_state()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Inside, all work on the GPU is in the stream, and torch's generators are those of the network."""
        default = torch.cuda.default_generators[self._index]
        on_device, on_host = default.graphsafe_get_state(), torch.get_rng_state()
        # Not a copy of the state: a graph that drew from it draws from it again.
        default.graphsafe_set_state(self._on_device)
        torch.set_rng_state(self._on_host)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._on_device, self._on_host = default.graphsafe_get_state(), torch.get_rng_state()
            default.graphsafe_set_state(on_device)
            torch.set_rng_state(on_host)


def train_networks(
    networks: Sequence[Mapping[str, Any]],
    device: str | torch.device = "auto",
    done: Callable[[TrainedNetwork], None] | None = None,
) -> list[TrainedNetwork]:
    """Train several networks, on a GPU all at the same time, on a CPU one after the other; each as :func:`train_network` does.

    The gain is largest for networks whose kernels are small: fully connected ones and LeNet. The GPU must have the memory for
    all. Each network has its own checkpoints; SIGTERM and Ctrl-C save all of them before they stop the training. An error of one
    network is raised when the others have ended.

    Args:
        networks: of each, the arguments of :func:`train_network` by name, without ``device``.
        device: "auto", "cpu", "cuda" or "cuda:N".
        done: called with each network when it has ended, to save it.

    Returns:
        The networks, in the order given.
    """
    place = choose_device(str(device))
    if place.type != "cuda":
        trained = []
        for arguments in networks:
            trained.append(train_network(**arguments, device=place))
            if done:
                done(trained[-1])
        return trained
    lanes = [_Lane(place) for _ in networks]
    prepared: list[tuple[TrainingRun, Checkpointer | None]] = []
    with repeatable(place):
        for arguments, lane in zip(networks, lanes, strict=True):
            with lane.entered():
                prepared.append(prepare(place, **arguments))
        keepers = [checkpointer for _, checkpointer in prepared if checkpointer]
        with listening(keepers) if keepers else contextlib.nullcontext():
            _take_turns(prepared, lanes, done)
    return [run.network for run, _ in prepared]


def _take_turns(
    prepared: Sequence[tuple[TrainingRun, Checkpointer | None]],
    lanes: Sequence[_Lane],
    done: Callable[[TrainedNetwork], None] | None,
) -> None:
    """Train all to the end, or to the signal that stops them."""
    waiting = []
    for (run, checkpointer), lane in zip(prepared, lanes, strict=True):
        with lane.entered():
            if checkpointer:
                checkpointer.resume()
            waiting.append((run, checkpointer, lane, steps(run, checkpointer.maybe_save if checkpointer else lambda: None)))
    errors: list[BaseException] = []
    while waiting:
        run, checkpointer, lane, remaining = waiting.pop(0)
        try:
            with lane.entered():
                ended = sum(1 for _ in itertools.islice(remaining, _STEPS_PER_TURN)) < _STEPS_PER_TURN
            if not ended:
                waiting.append((run, checkpointer, lane, remaining))
                continue
            run.graphed = None  # with its memory
            if done:
                done(run.network)
        except Exception as error:
            errors.append(error)
        except (SystemExit, KeyboardInterrupt) as stopped:
            # This one is saved, and the others save themselves at their next step, where they have checkpoints.
            errors.append(stopped)
            waiting = [entry for entry in waiting if entry[1]]
    if errors:
        raise next((error for error in errors if not isinstance(error, Exception)), errors[0])
