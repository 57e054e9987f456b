"""Fully connected networks (paper, appendix B)."""

import math

from torch import nn

from relstab.architectures.parts import MakeActivation, scaled

HIDDEN_UNITS = 512


def build(
    image_shape: tuple[int, int, int], classes: int, width: float, activation: MakeActivation, _pooling: str, hidden_layers: int
) -> nn.Module:
    """``hidden_layers`` layers of 512 * width units, and a linear read-out."""
    units = scaled(HIDDEN_UNITS, width)
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = math.prod(image_shape)
    for _ in range(hidden_layers):
        layers += [nn.Linear(inputs, units), activation()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
