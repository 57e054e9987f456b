"""Memory that one pass through a network frees and the next one asks for again."""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator, Mapping

import torch

__all__ = ["kept_memory"]

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_KEEP = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
# glibc raises its two thresholds, up to these values, as a process frees large blocks, and stops once mallopt was called.
# Its initial thresholds (128 KiB) would make all later passes in this process half as slow again.
_AFTER = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 32 * 2**20, _M_TRIM_THRESHOLD: 64 * 2**20, _M_TOP_PAD: 0}

_lock = threading.Lock()
_inside = 0


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            libc = ctypes.CDLL("libc.so.6")
            return libc if hasattr(libc, "gnu_get_libc_version") else None
    return None


def _set(libc: ctypes.CDLL, options: Mapping[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Inside, freed memory stays with the process, which allocates large tensors from it without a call of the kernel.

    glibc gives blocks of more than 32 MiB back at once, and every pass through a network pays for zeroed pages again: a tenth to
    a fifth of a training step of VGG11 or ResNet18 on a CPU. Inside, their memory grows by a tenth. After the last of several
    nested or concurrent ones, free memory goes back to the system. On a GPU, or without glibc, nothing changes.
    """
    global _inside
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            _set(libc, _KEEP)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _set(libc, _AFTER)
                libc.malloc_trim(0)
