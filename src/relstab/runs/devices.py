"""Where networks run: device, one of several GPUs, precision, and the largest batch that fits."""

import contextlib
import functools
import os
import random
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from relstab.runs.gpu_support import missing_code, unusable_gpu

__all__ = [
    "acquire_gpu",
    "choose_device",
    "choose_precision",
    "fits",
    "is_out_of_memory",
    "largest_batch",
    "occupied_device",
    "repeatable",
]

# Seconds between two attempts to get a slot on a GPU.
_INTERVAL = 1.0


def choose_device(name: str) -> torch.device:
    """Device by its name in the config; "auto" is cuda where torch finds one, and of several cards the first that torch can use.

    Where "auto" is the CPU although there is a GPU, one warning per process says why torch cannot use it.

    Raises:
        ValueError: a device that is not there, or for which torch has no code.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"expected device to be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r} (config.yaml: device)")
    device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda":
        if name == "auto" and (cause := unusable_gpu()) is not None:
            _warn_once(f"computing on the CPU: {cause}")
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        cause = unusable_gpu() or f"this machine has {torch.cuda.device_count()} CUDA devices"
        raise ValueError(f"device is {name!r}, and {cause} (config.yaml: device)")
    candidates = range(torch.cuda.device_count()) if device.index is None else [device.index]
    lacking = {index: missing_code(index) for index in candidates}
    usable = [index for index, why in lacking.items() if why is None]
    if not usable:
        raise ValueError(f"{lacking[device.index or 0]}, or compute on the CPU (config.yaml: device: cpu)")
    return device if usable[0] == (device.index or 0) else torch.device("cuda", usable[0])


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=3)


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
            # Older versions of torch do not tell what a CPU can do.
            known = device.type == "cpu" and hasattr(torch.cpu, "get_capabilities")
            capabilities = torch.cpu.get_capabilities() if known else {}
            fast = any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
        return torch.bfloat16 if fast else torch.float32
    if name not in ("float32", "bfloat16"):
        raise ValueError(
            f"expected precision to be 'auto', 'float32' or 'bfloat16', got {name!r} (config.yaml: training.precision)"
        )
    return torch.float32 if name == "float32" else torch.bfloat16


def _float32_precisions() -> list[Any]:
    """Where torch keeps how operations may round float32: for all, per backend, and per operation.

    An operation that is not set follows its backend, and a backend that is not set follows the first one.
    """
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    operations = [cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul]
    return [backends, cudnn, mkldnn, *operations]


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside, float32 is not rounded to TF32 or bfloat16, and convolutions on a GPU sum in the same order each time.

    Afterwards each of torch's flags has its former value, and follows the flag that it followed before. The older flags
    (``allow_tf32``, ``set_float32_matmul_precision``) stay as they are: they only set the newer ones, ``fp32_precision``, by
    which torch computes. Inside, torch may refuse to read an older flag because it differs from the newer one. With torch's
    defaults there is no effect on a CPU.
    """
    if device.type not in ("cpu", "cuda"):
        yield
        return
    with contextlib.ExitStack() as flags:

        def set_flag(owner: Any, name: str, value: Any) -> None:
            before = getattr(owner, name)
            if before != value:
                setattr(owner, name, value)
                flags.callback(setattr, owner, name, before)

        if hasattr(torch.backends, "fp32_precision"):
            for precision in _float32_precisions():
                set_flag(precision, "fp32_precision", "ieee")
        else:  # torch before 2.9 computes by the older flags
            flags.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
            set_flag(torch.backends.cudnn, "allow_tf32", False)
        set_flag(torch.backends.cudnn, "deterministic", True)
        set_flag(torch.backends.cudnn, "benchmark", False)
        yield


@contextlib.contextmanager
def acquire_gpu(folder: Path, names: Sequence[str], slots: int) -> Iterator[int]:
    """Hold one slot on one of several GPUs, among the processes of this machine; waits until a slot is free.

    The first slots of all GPUs are taken before any second slot, so that processes spread over the GPUs. A slot is a file lock,
    which the operating system releases when the process ends, also if it is killed.

    Args:
        folder: of the lock files, the same for all processes.
        names: identifiers of the GPUs, the same in all processes.
        slots: processes that share one GPU.

    Yields:
        The index of the GPU in ``names``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = False
    while True:
        # In random order, so that processes that start together do not all try the same GPU first.
        order = random.Random(os.urandom(8)).sample(range(len(names)), len(names))
        for slot in range(slots):
            for index in order:
                lock = FileLock(folder / f"{names[index]}.{slot}.lock")
                try:
                    held = lock.acquire(blocking=False)
                except Timeout:
                    continue
                with held:
                    yield index
                return
        if not waiting:
            print(f"{len(names)} GPU(s) with {slots} job(s) each: waiting for one to end", flush=True)
            waiting = True
        time.sleep(_INTERVAL)


def _gpu_names(indices: Sequence[int]) -> list[str]:
    """Names of GPUs for their locks.

    A part of a card (MIG) has its own name, not that of the card. Where SLURM gave a job its GPUs, or shares of them, jobs of
    other allocations need not wait: the names hold for this allocation alone.
    """
    parts = [part for part in os.getenv("CUDA_VISIBLE_DEVICES", "").split(",") if part.startswith("MIG-")]
    names = [parts[index] if index < len(parts) else str(torch.cuda.get_device_properties(index).uuid) for index in indices]
    given = any(os.getenv(f"SLURM_{name}") for name in ("JOB_GPUS", "STEP_GPUS", "GPUS_ON_NODE", "SHARDS_ON_NODE"))
    job = os.getenv("SLURM_JOB_ID") if given else None
    return [re.sub(r"[^\w-]", "_", f"{job}-{name}" if job else name) for name in names]


@contextlib.contextmanager
def occupied_device(name: str, jobs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Device of one job, by its name in the config; "auto" and "cuda" choose a GPU with a free slot and hold the slot.

    Jobs that run at the same time on one machine use different GPUs while one is free. At most ``jobs_per_gpu`` jobs share a
    GPU, also if the config names it. A job without a free slot waits.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:N".
        jobs_per_gpu: jobs that share a GPU.

    Raises:
        ValueError: there is a GPU that torch cannot use. The CPU does not replace it: hours would become days.
    """
    if name == "auto" and (cause := unusable_gpu()) is not None:
        raise ValueError(f"{cause}, or compute on the CPU (config.yaml: device: cpu)")
    device = choose_device(name)
    if device.type != "cuda":
        yield device
        return
    indices = [int(name.partition(":")[2])] if ":" in name else list(range(torch.cuda.device_count()))
    indices = [index for index in indices if missing_code(index) is None]
    folder = Path(tempfile.gettempdir()) / f"relstab-gpus-{os.getuid()}"
    with acquire_gpu(folder, _gpu_names(indices), jobs_per_gpu) as chosen:
        yield torch.device("cuda", indices[chosen])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU was out of memory: torch's error, or an error of CUDA's libraries if other processes fill the GPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("out of memory", "ALLOC_FAILED", "NOT_ENOUGH_WORKSPACE")
    )


@contextlib.contextmanager
def fits(what: str, device: torch.device, mend: str) -> Iterator[None]:
    """Inside, a GPU that is too small for ``what`` raises an error of one sentence, which ends with the remedy ``mend``.

    Raises:
        MemoryError: the GPU was out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        free, total = torch.cuda.mem_get_info(device)
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
        raise MemoryError(f"expected {what} to fit into the memory of {device}, where {memory}: {mend}") from None


def largest_batch(step: Callable[[int], None], batch_size: int) -> int:
    """Largest batch size that fits into the memory of the GPU, among a half, a quarter, ... of ``batch_size``; 0 if none fits.

    Args:
        step: all the work of one step on that many images; raises ``torch.OutOfMemoryError`` if it does not fit.
        batch_size: number of images that did not fit.
    """
    # Batch norm cannot train on one image.
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
