"""Max pooling as fast as the rest of a forward pass on a CPU, where torch compares one window at a time."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["separable_max_pool", "separable_max_pooling"]


def _pool_axis(values: Tensor, axis: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Maxima of the windows along one axis: one elementwise maximum for each place in a window."""
    if padding:
        sides = [0, 0] * (-1 - axis) + [padding, padding]
        values = functional.pad(values, sides, value=-math.inf)
    windows = (values.shape[axis] - kernel) // stride + 1
    places = [values.narrow(axis, place, stride * (windows - 1) + 1) for place in range(kernel)]
    places = [place[..., ::stride, :] if axis == -2 else place[..., ::stride] for place in places]
    pooled = places[0]
    for place in places[1:]:
        pooled = torch.maximum(pooled, place)
    return pooled


def separable_max_pool(images: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """What ``torch.nn.functional.max_pool2d`` gives, to the bit: the maximum over a square is that of the maxima of its rows.

    Args:
        images: [..., H, W].
        kernel, stride, padding: of both axes, in pixels.
    """
    return _pool_axis(_pool_axis(images, -2, kernel, stride, padding), -1, kernel, stride, padding).contiguous()


def _both(value: int | tuple[int, ...]) -> int | None:
    """The one value of both axes, or None where they differ."""
    axes = {value} if isinstance(value, int) else set(value)
    return axes.pop() if len(axes) == 1 else None


@contextlib.contextmanager
def separable_max_pooling(model: nn.Module) -> Iterator[None]:
    """Inside, the max pooling layers of a network run as :func:`separable_max_pool` where that gives the same and is faster.

    These are square windows over float32 or float64 images on a CPU that are not in channels_last. It takes a tenth of torch's
    time, and a fifth off the forward pass of a VGG11 at 32 x 32 pixels (benchmarks/README.md).
    """

    def faster(layer: nn.MaxPool2d, kernel: int, stride: int, padding: int) -> None:
        def forward(images: Tensor) -> Tensor:
            fits = images.device.type == "cpu" and images.dtype in (torch.float32, torch.float64) and images.is_contiguous()
            spare = [size + 2 * padding - kernel for size in images.shape[-2:]]
            if fits and min(spare) >= 0 and not (layer.ceil_mode and any(left % stride for left in spare)):
                return separable_max_pool(images, kernel, stride, padding)
            return nn.MaxPool2d.forward(layer, images)  # type: ignore[no-any-return]

        layer.__dict__["forward"] = forward

    changed: list[nn.MaxPool2d] = []
    try:
        for layer in model.modules():
            if type(layer) is not nn.MaxPool2d or "forward" in layer.__dict__ or layer.return_indices:
                continue
            kernel, stride, padding = _both(layer.kernel_size), _both(layer.stride), _both(layer.padding)
            if kernel is None or stride is None or padding is None or _both(layer.dilation) != 1:
                continue
            faster(layer, kernel, stride, padding)
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.__dict__["forward"]
