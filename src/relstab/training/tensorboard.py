"""A training run as TensorBoard shows it: loss, test error and learning rate by epoch, in an event file."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from relstab.files.network import HISTORY

__all__ = ["event_file"]


@contextlib.contextmanager
def event_file(
    folder: str | Path | None, history: Sequence[Mapping[str, float]]
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Inside, a function writes a row of the history to the event file of a network: one point per column, at the step ``epoch``.

    The file begins with the rows so far, and with a mark (``purge_step``) for which TensorBoard drops all points of earlier files
    in the folder. So it shows each epoch once, also if an earlier run was killed after its last checkpoint, had another recipe,
    or wrote no event file. Earlier files stay: a TensorBoard that is open reads on from them.

    Args:
        folder: of the event file of this network alone; None for no file, which imports nothing.
        history: rows of the epochs so far, with the columns of :data:`relstab.files.network.HISTORY`.

    Raises:
        OSError: the file cannot be written.
    """
    if folder is None:
        yield lambda _row: None
        return
    # Imported here, because the package tensorboard is optional.
    from torch.utils.tensorboard import SummaryWriter

    step, *scalars = HISTORY

    def add(row: Mapping[str, float]) -> None:
        for name in scalars:
            writer.add_scalar(name, row[name], int(row[step]))
        writer.flush()

    with SummaryWriter(folder, purge_step=1) as writer:
        for row in history:
            add(row)
        yield add
