"""Where networks run: which device, which of several GPUs, in what precision, and how much fits."""

import contextlib
import fcntl
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch

__all__ = ["choose_device", "choose_precision", "largest_batch", "occupied_device", "occupied_slot", "repeatable"]

# Seconds between two looks for a free place on a GPU.
_PATIENCE = 1.0


def choose_device(name: str) -> torch.device:
    """Device by its name in the config; "auto" is cuda where there is one."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"device is {name!r}: 'auto', 'cpu', 'cuda' or 'cuda:N' is wanted (config.yaml: device)")
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
        raise ValueError(f"precision is {name!r}: 'auto', 'float32' or 'bfloat16' is wanted (config.yaml: training.precision)")
    return torch.float32 if name == "float32" else torch.bfloat16


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside, convolutions on a GPU add up in the same order at every repetition; on a CPU they do anyway."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    if device.type == "cuda":
        cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        if device.type == "cuda":
            cudnn.deterministic, cudnn.benchmark = before


def _lock(path: Path) -> IO[str] | None:
    """The file at ``path``, open and locked, or None where another process holds it; the lock goes when the process ends."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
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
            print(f"all {len(names)} GPUs have {slots} job(s) each: waiting for one to end", flush=True)
            waiting = True
        time.sleep(_PATIENCE)


@contextlib.contextmanager
def occupied_device(name: str, jobs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Device for one job, by its name in the config: with "auto" or "cuda", a GPU on which there is still a place.

    Jobs that run at the same time on one machine take different GPUs as long as there are some, and at most ``jobs_per_gpu``
    share one; a job for which there is no place waits. On a CPU, or with a GPU named, nothing is held.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:N".
        jobs_per_gpu: jobs that share a GPU.
    """
    device = choose_device(name)
    if device.type != "cuda" or device.index is not None:
        yield device
        return
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    folder = Path(tempfile.gettempdir()) / f"relstab-gpus-{os.getuid()}"
    with occupied_slot(folder, uuids, jobs_per_gpu) as index:
        yield torch.device("cuda", index)


def largest_batch(step: Callable[[int], None], batch_size: int) -> int:
    """Largest of the halves, quarters and so on of a batch size whose step fits into the memory of the GPU; 0 where none does.

    Args:
        step: does all the work of one step on that many images, and raises ``torch.OutOfMemoryError`` where it does not fit.
        batch_size: that did not fit.
    """
    while batch_size := batch_size // 2:
        torch.cuda.empty_cache()
        with contextlib.suppress(torch.OutOfMemoryError):
            step(batch_size)
            return batch_size
    return 0
