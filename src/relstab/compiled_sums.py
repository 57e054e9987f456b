"""All sums of one layer in one pass over its activations, compiled by numba, on the threads of torch.

Operations of torch go through the activations once for each of difference, norm, sum and projection. Here one block of features
after the other stays in the processor's cache while all its sums are taken. The threads are those of torch's own OpenMP: others
would compete with them, since they spin for a while after each operation of torch.
"""

import ctypes
import functools
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["compiled_sums", "is_available"]

# Images that are added in the activations' own precision, feature by feature, an even number; these sums are added in float64.
_IMAGES = 16
# Largest and smallest number of features whose sums are taken in the activations' own precision, and the number of blocks that a
# narrow layer has, for more than one thread. The block depends on the layer alone, and so do the digits.
_LARGEST_BLOCK, _SMALLEST_BLOCK, _BLOCKS = 4096, 256, 16
# What the compiled function gets: numbers, and addresses of arrays.
_WORK = np.dtype([(name, np.int64) for name in (
    "taken", "blocks", "block", "features", "batch", "versions", "stride", "are_changes", "images", "rows", "origin", "total",
    "out", "squares",
)])  # fmt: skip

_VOID_POINTER = ir.IntType(8).as_pointer()


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(_context: Any, address: Any) -> Any:
    """The pointer of an address."""
    return numba.types.voidptr(address), lambda _, builder, __, given: builder.inttoptr(given[0], _VOID_POINTER)


@intrinsic  # type: ignore[untyped-decorator]
def _take(_context: Any, counter: Any) -> Any:
    """The number at the pointer ``counter``, which grows by one: no two threads get the same."""

    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        number = ir.IntType(64)
        return builder.atomic_rmw("add", builder.bitcast(given[0], number.as_pointer()), number(1), "monotonic")

    return numba.types.int64(counter), generate


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, to read it soon."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        pointer, number = _VOID_POINTER, ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        builder.call(function, [builder.inttoptr(given[0], pointer), number(0), number(2), number(1)])
        return context.get_dummy_value()

    return numba.types.void(address), generate


@numba.njit
def _announce(address, count):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Ask for the first lines of each page of ``count`` bytes: a processor finds the rest of a page itself."""
    for page in range(address, address + count, 4096):
        for line in range(page, page + 256, 64):
            _prefetch(line)


# Sums are taken in the order that is fastest; NaN and infinity stay what they are.
_fast = numba.njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")


@_fast
def _sum_pair(count, zero, weight, o, e, column, a, a1, a2, b, b1, b2):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Sums of two images a and b in two versions: |f - o|^2, |f(T x) - f(x)|^2 twice, (f - o) . e; ``column`` gets both f - o."""
    square_a, first_a, second_a, projection_a = zero, zero, zero, zero
    square_b, first_b, second_b, projection_b = zero, zero, zero, zero
    for j in range(count):
        centred_a, centred_b = a[j] - o[j], b[j] - o[j]
        square_a += centred_a * centred_a
        square_b += centred_b * centred_b
        projection_a += centred_a * e[j]
        projection_b += centred_b * e[j]
        column[j] += centred_a + centred_b
        change_a, change_b = a1[j] - weight * a[j], b1[j] - weight * b[j]
        first_a += change_a * change_a
        first_b += change_b * change_b
        change_a, change_b = a2[j] - weight * a[j], b2[j] - weight * b[j]
        second_a += change_a * change_a
        second_b += change_b * change_b
    return (square_a, first_a, second_a, projection_a), (square_b, first_b, second_b, projection_b)


@_fast
def _sum_blocks(data, real):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Take the sums of one block after the other, until other threads have taken the rest.

    Args:
        data: pointer to a _WORK. Its arrays are rows [(V + 1) B rows, ``stride`` entries from one to the next], origin (address 0
            for an origin of 0), total, [features]; out [blocks, V + 2, B]; squares [blocks, 2].
        real: type of rows and origin; the others are float64.
    """
    work = numba.carray(data, 1, _WORK)[0]
    batch, stride, features = work.batch, work.stride, work.features
    rows = numba.carray(_pointer(work.rows), (work.versions * batch - 1) * stride + features, real)
    origin = numba.carray(_pointer(work.origin), features if work.origin else 0, real)
    total = numba.carray(_pointer(work.total), features, np.float64)
    out = numba.carray(_pointer(work.out), (work.blocks, work.versions + 1, batch), np.float64)
    squares = numba.carray(_pointer(work.squares), (work.blocks, 2), np.float64)
    o, e, column = np.zeros(work.block, real), np.zeros(work.block, real), np.zeros(work.block, real)
    zero = real(0)
    weight = real(0) if work.are_changes else real(1)
    while True:
        block = _take(data)
        if block >= work.blocks:
            return
        start = block * work.block
        count = min(work.block, features - start)
        sums = total[start : start + count]
        # o and e.
        if not work.images:
            o[:count] = zero
        elif work.origin:
            o[:count] = origin[start : start + count]
        if work.images >= batch:
            share = 1 / np.float64(work.images)
            for j in range(count):
                e[j] = sums[j] * share
        else:
            # Counted from the first image, so that a constant representation gives differences of exactly 0.
            first = rows[start : start + count]
            for image in range(1, batch):
                clean = rows[image * stride + start : image * stride + start + count]
                for j in range(count):
                    column[j] += clean[j] - first[j]
            for j in range(count):
                e[j] = first[j] + column[j] / real(batch) - o[j]
                column[j] = zero
        if not work.images:
            for j in range(count):
                o[j] = origin[start + j] = e[j]
                e[j] = sums[j] = zero
        # Sums of each image, and over the images. Two perturbations are usual; then two images at a time read o, e and their own
        # versions from the cache half as often.
        image = 0
        while image < batch:
            together = 2 if work.versions == 3 and image + 1 < batch else 1
            for near in range(image + together, min(image + 2 * together, batch)):
                for version in range(work.versions):
                    begin = (version * batch + near) * stride + start
                    _announce(work.rows + begin * rows.itemsize, count * rows.itemsize)
            begin, apart = image * stride + start, batch * stride
            if together == 2:
                of_a, of_b = _sum_pair(
                    count, zero, weight, o, e, column,
                    rows[begin:], rows[begin + apart :], rows[begin + 2 * apart :],
                    rows[begin + stride :], rows[begin + stride + apart :], rows[begin + stride + 2 * apart :],
                )  # fmt: skip
                for kind in range(4):
                    out[block, kind, image], out[block, kind, image + 1] = of_a[kind], of_b[kind]
            else:
                clean = rows[begin : begin + count]
                square, projection = zero, zero
                for j in range(count):
                    centred = clean[j] - o[j]
                    square += centred * centred
                    projection += centred * e[j]
                    column[j] += centred
                out[block, 0, image], out[block, work.versions, image] = square, projection
                for version in range(1, work.versions):
                    begin = (version * batch + image) * stride + start
                    perturbed = rows[begin : begin + count]
                    square = zero
                    for j in range(count):
                        change = perturbed[j] - weight * clean[j]
                        square += change * change
                    out[block, version, image] = square
            image += together
            if image % _IMAGES == 0 or image == batch:
                for j in range(count):
                    sums[j] += column[j]
                    column[j] = zero
        square, product = 0.0, 0.0
        if work.images:
            for j in range(count):
                square += np.float64(e[j]) * e[j]
        else:
            for j in range(count):
                square += np.float64(o[j]) * o[j]
                product += o[j] * sums[j]
                sums[j] += np.float64(batch) * o[j]
        squares[block, 0], squares[block, 1] = square, product


def _float32(data):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    _sum_blocks(data, np.float32)


def _float64(data):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    _sum_blocks(data, np.float64)


@functools.cache
def _compiled(dtype: torch.dtype) -> Any:
    """The compiled function: it takes some seconds to compile, once, since numba keeps the code in a file."""
    function = {torch.float32: _float32, torch.float64: _float64}[dtype]
    signature = numba.void(numba.types.voidptr)
    try:
        return numba.cfunc(signature, cache=True)(function)
    except (RuntimeError, OSError):  # no folder to which numba can write
        return numba.cfunc(signature)(function)


@functools.cache
def _parallel() -> Any:
    """``GOMP_parallel`` of the OpenMP library that torch uses; None where it uses another one, as on macOS and Windows.

    It calls ``function(data)`` on a number of threads and waits for them.
    """
    try:
        function = ctypes.CDLL("libtorch_cpu.so").GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


def is_available() -> bool:
    """Whether the sums can be compiled here, and are not switched off by NUMBA_DISABLE_JIT=1."""
    return not numba.config.DISABLE_JIT and _parallel() is not None


def compiled_sums(
    rows: Tensor,
    batch: int,
    origin: Tensor | None,
    total: Tensor,
    *,
    images: int,
    are_changes: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of one batch, with an estimate e of the mean of f - o.

    The estimate is the mean of the images before, total / images, or of this batch, if it has more images. The numbers do not
    depend on how many threads take them.

    Args:
        rows: f(x) and f(T x) of each version, [(V + 1) B, features], float32 or float64, on the CPU.
        batch: B.
        origin: o, [features], or None for 0. The first batch writes its mean there, and counts from it.
        total: [features], float64, to which the sum of f - o is added. The first batch writes the sum of f there.
        images: how many came before; 0 for the first batch, whose e is 0.
        are_changes: whether rows hold f(T x) - f(x) in place of f(T x).

    Returns:
        |f - o|^2, |f(T x) - f(x)|^2 of each version, and (f - o) . e, [V + 2, B]; and |e|^2 and 0, or, of the first batch, |o|^2
        and the product of o and the sum of f - o.
    """
    if rows.shape[1] > 1 and rows.stride(1) != 1:
        rows = rows.contiguous()
    features = rows.shape[1]
    versions = len(rows) // batch
    block = min(max(-(-features // _BLOCKS), _SMALLEST_BLOCK), _LARGEST_BLOCK)
    blocks = -(-features // block)
    out, squares = np.empty((blocks, versions + 1, batch)), np.empty((blocks, 2))
    work = np.array((
        0, blocks, block, features, batch, versions, rows.stride(0), are_changes, images, rows.data_ptr(),
        0 if origin is None else origin.data_ptr(), total.data_ptr(), out.ctypes.data, squares.ctypes.data,
    ))  # fmt: skip
    function, threads = _compiled(rows.dtype), torch.get_num_threads()
    if threads == 1 or blocks == 1:
        function.ctypes(work.ctypes.data)
    else:
        _parallel()(function.address, work.ctypes.data, threads, 0)
    return out.sum(0), squares.sum(0)
