"""What the architectures have in common: numbers of channels, activations, and how images are made smaller."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "Abs", "MakeActivation", "pooled", "replace_activations", "scaled"]

MakeActivation = Callable[[], nn.Module]


class Abs(nn.Module):
    """The absolute value: even, where ReLU is neither even nor odd and tanh is odd."""

    def forward(self, values: Tensor) -> Tensor:
        return torch.abs(values)


ACTIVATIONS: dict[str, MakeActivation] = {
    "relu": partial(nn.ReLU, inplace=True),
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "abs": Abs,
    "silu": partial(nn.SiLU, inplace=True),
}
"""Activations by their name: those of ``config.yaml``, and SiLU, EfficientNet's own."""


def scaled(channels: int, width: float) -> int:
    """Number of channels times the width multiplier, at least one."""
    return max(1, round(channels * width))


def pooled(layers: list[nn.Module], pooling: str) -> list[nn.Module]:
    """Layers that begin with a convolution, their output at half the size: pooled 2 x 2, or by the stride of the convolution.

    Pooling rounds up, so that images of 28 pixels survive five of them; on multiples of 32 that changes nothing.

    Args:
        layers: the first is an :class:`~torch.nn.Conv2d` of stride 1.
        pooling: "max", "average", or "none" for a convolution of stride 2 and no pooling.
    """
    if pooling == "max":
        return [*layers, nn.MaxPool2d(2, ceil_mode=True)]
    if pooling == "average":
        return [*layers, nn.AvgPool2d(2, ceil_mode=True)]
    convolution = layers[0]
    assert isinstance(convolution, nn.Conv2d)
    convolution.stride = (2, 2)
    return layers


def replace_activations(model: nn.Module, activation: MakeActivation) -> None:
    """Replace ReLUs and SiLUs by ``activation``, in place; the gates of squeeze and excitation keep their sigmoid."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.SiLU):
                setattr(module, name, activation())
