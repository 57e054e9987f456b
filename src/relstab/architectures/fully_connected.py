"""Fully connected networks (paper, appendix B)."""

import math

from torch import nn

from relstab.architectures import scaled

HIDDEN_UNITS = 512


def build(image_shape: tuple[int, int, int], classes: int, width: float, hidden_layers: int) -> nn.Module:
    """``hidden_layers`` layers of 512 * width units with ReLU, and a linear read-out."""
    units = scaled(HIDDEN_UNITS, width)
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = math.prod(image_shape)
    for _ in range(hidden_layers):
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
