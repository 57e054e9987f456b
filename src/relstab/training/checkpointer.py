"""Saves a training run every few minutes and at SIGTERM or Ctrl-C, so that it continues when it is started again."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Protocol

from relstab.training.checkpoint import Checkpoint, Checkpoints

__all__ = ["Checkpointer", "Run", "listening"]


class Run(Protocol):
    """A training run that can be saved."""

    @property
    def step_number(self) -> int:
        """Number of steps done; it grows from checkpoint to checkpoint."""

    @property
    def where(self) -> str:
        """How far it is, in words."""

    def checkpoint(self) -> Checkpoint:
        """All that the rest of the training run depends on."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""


class Checkpointer:
    """Saves a training run every few minutes, and before it is stopped by a signal."""

    def __init__(self, run: Run, checkpoints: Checkpoints, seconds: float) -> None:
        self.run, self.checkpoints, self.seconds = run, checkpoints, seconds
        self.last = time.monotonic()
        self.signal: int | None = None

    def resume(self) -> None:
        found = self.checkpoints.load()
        if found is not None:
            self.run.restore(found)
            print(f"continued from the checkpoint in {self.run.where}")

    def maybe_save(self) -> None:
        """Called where a training run may be saved: after every step, and between the batches of an evaluation."""
        if self.signal is None and time.monotonic() - self.last < self.seconds:
            return
        checkpoint = self.run.checkpoint()
        try:
            path = self.checkpoints.save(self.run.step_number, checkpoint)
        except OSError as error:
            # The training run itself can still succeed, and the checkpoint before is intact.
            then = "training continues" if self.signal is None else f"stopped by {signal.Signals(self.signal).name}"
            print(f"no checkpoint could be written in {self.checkpoints.folder} ({error}): {then}", flush=True)
        else:
            if self.signal is not None:
                print(f"stopped by {signal.Signals(self.signal).name}: run again to continue from {path}", flush=True)
        self.last = time.monotonic()
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """:func:`listening` for this training run alone."""
        return listening([self])


@contextlib.contextmanager
def listening(checkpointers: Sequence[Checkpointer]) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT stop the training runs at their next step; only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for checkpointer in checkpointers:
            checkpointer.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[-1])  # it came when there was nothing left to save
