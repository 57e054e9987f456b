"""Fully connected networks (paper, appendix B): the reference's DenseNetL2, L4 and L6, and wide ones of torch's own layers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from relstab.architectures.parts import MakeActivation, scaled


class ScaledLinear(nn.Module):
    """A linear layer whose weights are standard normal at first and scaled in the forward pass: [N, inputs] to [N, outputs].

    A hidden layer is y = W x / sqrt(inputs) + b, with b standard normal at first. The read-out is y = W x / inputs, without a
    bias (mean-field scaling).
    """

    def __init__(self, inputs: int, outputs: int, readout: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = None if readout else nn.Parameter(torch.randn(outputs))
        self.factor = 1 / inputs if readout else inputs**-0.5

    def forward(self, values: Tensor) -> Tensor:
        return functional.linear(values, self.weight * self.factor, self.bias)


def build(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float,
    activation: MakeActivation,
    _pooling: str,
    weight_layers: int,
    hidden_units: int,
    normalised: bool,
) -> nn.Module:
    """``weight_layers`` - 1 hidden layers of ``hidden_units`` * width units, and a read-out.

    ``normalised`` is for layers of :class:`ScaledLinear`, as in the reference implementation; otherwise they are torch's.
    """
    units = scaled(hidden_units, width)
    inputs = math.prod(image_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(weight_layers - 1):
        layers += [ScaledLinear(inputs, units) if normalised else nn.Linear(inputs, units), activation()]
        inputs = units
    readout = ScaledLinear(inputs, classes, readout=True) if normalised else nn.Linear(inputs, classes)
    return nn.Sequential(*layers, readout)
