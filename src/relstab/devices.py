"""Where networks run: which device, which of several GPUs, in what precision, and how much fits."""

import contextlib
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch

__all__ = [
    "choose_device",
    "choose_precision",
    "is_out_of_memory",
    "largest_batch",
    "occupied_device",
    "occupied_slot",
    "repeatable",
]

# Seconds between two looks for a free place on a GPU.
_PATIENCE = 1.0


def choose_device(name: str) -> torch.device:
    """Device by its name in the config; "auto" is cuda where there is one."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"expected device to be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r} (config.yaml: device)")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {name!r}, and this machine has {torch.cuda.device_count()} CUDA devices (config.yaml: device)"
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Dtype of products and convolutions in training; "auto" is bfloat16 where the hardware computes in it.

    Args:
        name: "auto", "float32" or "bfloat16".
        device: where the network is trained.
    """
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.get_device_capability(device) >= (8, 0)
        else:
            fast = device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16"))
        return torch.bfloat16 if fast else torch.float32
    if name not in ("float32", "bfloat16"):
        raise ValueError(
            f"expected precision to be 'auto', 'float32' or 'bfloat16', got {name!r} (config.yaml: training.precision)"
        )
    return torch.float32 if name == "float32" else torch.bfloat16


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside, convolutions on a GPU add up in the same order at every repetition, and float32 is not TF32; on a CPU, as ever."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before


def _lock(path: Path) -> IO[str] | None:
    """The file at ``path``, open and locked, or None where another process holds it; the lock goes when the process ends."""
    import fcntl  # not on Windows, where networks can be measured all the same

    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def occupied_slot(folder: Path, names: Sequence[str], slots: int) -> Iterator[int]:
    """Hold one of ``slots`` places on one of several devices against the other processes of this machine; waits for a free one.

    First places come before second ones, so that processes spread over the devices before they share any. The places are file
    locks, which end with the process that holds them, however it ends.

    Args:
        folder: of the lock files, the same for all processes.
        names: of the devices, by which processes know them as the same.
        slots: processes that a device takes at a time.

    Yields:
        The index of the device in ``names``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = False
    while True:
        # In random order, so that processes that start together do not all meet at the first.
        order = random.Random(os.urandom(8)).sample(range(len(names)), len(names))
        for slot in range(slots):
            for index in order:
                held = _lock(folder / f"{names[index]}.{slot}.lock")
                if held is not None:
                    with held:
                        yield index
                    return
        if not waiting:
            print(f"{len(names)} GPU(s) with {slots} job(s) each: waiting for one to end", flush=True)
            waiting = True
        time.sleep(_PATIENCE)


@contextlib.contextmanager
def occupied_device(name: str, jobs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Device for one job, by its name in the config: with "auto" or "cuda", a GPU on which there is still a place.

    Jobs that run at the same time on one machine take different GPUs as long as there are some, and at most ``jobs_per_gpu``
    share one, also where it is named; a job for which there is no place waits.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:N".
        jobs_per_gpu: jobs that share a GPU.
    """
    device = choose_device(name)
    if device.type != "cuda":
        yield device
        return
    indices = [device.index] if device.index is not None else list(range(torch.cuda.device_count()))
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in indices]
    folder = Path(tempfile.gettempdir()) / f"relstab-gpus-{os.getuid()}"
    with occupied_slot(folder, uuids, jobs_per_gpu) as chosen:
        yield torch.device("cuda", indices[chosen])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU had no memory left: torch's own error, or one of CUDA's libraries where other processes fill the GPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("out of memory", "ALLOC_FAILED", "NOT_ENOUGH_WORKSPACE")
    )


def largest_batch(step: Callable[[int], None], batch_size: int) -> int:
    """Largest of the halves, quarters and so on of a batch size whose step fits into the memory of the GPU; 0 where none does.

    Args:
        step: does all the work of one step on that many images, and raises ``torch.OutOfMemoryError`` where it does not fit.
        batch_size: that did not fit.
    """
    # Batch norm cannot be trained on one image.
    while (batch_size := batch_size // 2) > 1:
        torch.cuda.empty_cache()
        try:
            step(batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            return batch_size
    return 0
