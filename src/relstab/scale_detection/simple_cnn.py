"""Simple convolutional networks for the scale-detection tasks: nothing but filters, strides and an average (paper, section 4).

Layer k of K takes windows of F sites (on an image F x F), s apart, on a ring:

    f_k(i) = sqrt(F) phi( b_k + sum over window j, channels c of w_k(j, c) f_{k-1}(i s + j, c) / sqrt(fan-in) ),   k = 1 ... K,
    f(x) = b + 1/H sum over channels h of beta_h mean over sites of f_K(., h)        (mean-field; 1/sqrt(H) in the NTK scaling),

all weights and biases standard normal at first. Windows of even size begin (F - 1) // 2 sites before i s, as those of odd size do.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from relstab.architectures import ACTIVATION_NAMES, ActivationName
from relstab.architectures.parts import ACTIVATIONS

__all__ = ["Scaling", "SimpleCNN", "SimpleDesign", "windows"]

Scaling = Literal["mean_field", "ntk"]


@dataclass(frozen=True)
class SimpleDesign:
    """What a simple CNN is made of.

    Attributes:
        depth: K, convolutional layers.
        filter_size: F, sites of a filter along each axis.
        stride: s, sites between windows.
        channels: H of every layer.
        activation: phi: "relu", "tanh", "gelu" or "abs".
        scaling: of the read-out: "mean_field", 1/H, or "ntk", 1/sqrt(H).
        dimension: 1 or 2.
        bias: whether layers have biases (the read-out has one in any case).
    """

    depth: int
    filter_size: int
    stride: int
    channels: int
    activation: ActivationName = "relu"
    scaling: Scaling = "mean_field"
    dimension: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("depth", "filter_size", "stride", "channels"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}: at least 1 is wanted")
        if self.stride > self.filter_size:
            raise ValueError(
                f"stride is {self.stride} and filter_size is {self.filter_size}: a stride of at most the filter is wanted, or the "
                f"sites between windows are never seen"
            )
        if self.dimension not in (1, 2):
            raise ValueError(f"dimension is {self.dimension}: 1, a ring, or 2, an image, is wanted")
        for name, allowed in (("activation", ACTIVATION_NAMES), ("scaling", get_args(Scaling))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: one of {', '.join(map(repr, allowed))} is wanted")

    @property
    def gain(self) -> float:
        """Factor after the activation: sqrt of the sites in a window, sqrt(F) on the ring."""
        return float(self.filter_size ** (self.dimension / 2))

    @property
    def window(self) -> int:
        """Sites in a window."""
        return int(self.filter_size**self.dimension)

    @property
    def readout(self) -> float:
        """Factor of the read-out: 1/H or 1/sqrt(H)."""
        return 1 / self.channels if self.scaling == "mean_field" else self.channels**-0.5

    @property
    def rate_factor(self) -> float:
        """Factor of the learning rate: H in the mean-field scaling, so that features move as much at any width; 1 in the other."""
        return float(self.channels) if self.scaling == "mean_field" else 1.0

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the parameters in order; weights are [window * channels before, H], sites first."""
        before = 1
        for layer in range(self.depth):
            yield f"weights.{layer}", (self.window * before, self.channels)
            if self.bias:
                yield f"biases.{layer}", (self.channels,)
            before = self.channels
        yield "beta", (self.channels,)
        yield "output_bias", ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def windows(size: int, design: SimpleDesign) -> list[Tensor]:
    """For each layer, the sites that each of its windows reads, [sites after, sites in a window], int64.

    Args:
        size: sites along each axis of the input.
        design: of the network.
    """
    layers = []
    for _ in range(design.depth):
        starts = torch.arange(0, size, design.stride) - (design.filter_size - 1) // 2
        line = (starts[:, None] + torch.arange(design.filter_size)) % size
        if design.dimension == 1:
            layers.append(line)
        else:  # rows times n plus columns, over windows and over sites in a window
            grid = line[:, None, :, None] * size + line[None, :, None, :]
            layers.append(grid.reshape(len(line) ** 2, design.window))
        size = len(line)
    return layers


class _Convolution(nn.Module):
    """Circular convolution of one layer, without its activation."""

    def __init__(self, before: int, design: SimpleDesign) -> None:
        super().__init__()
        self.design = design
        self.weight = nn.Parameter(torch.randn(design.channels, before, *[design.filter_size] * design.dimension))
        self.bias = nn.Parameter(torch.randn(design.channels)) if design.bias else None

    def forward(self, values: Tensor) -> Tensor:
        left = (self.design.filter_size - 1) // 2
        padding = (left, self.design.filter_size - 1 - left) * self.design.dimension
        convolve = functional.conv1d if self.design.dimension == 1 else functional.conv2d
        padded = functional.pad(values, padding, mode="circular")
        fan_in = self.weight[0].numel()
        return convolve(padded, self.weight / fan_in**0.5, self.bias, stride=self.design.stride)


class _Activation(nn.Module):
    """phi, times the gain."""

    def __init__(self, design: SimpleDesign) -> None:
        super().__init__()
        self.phi = ACTIVATIONS[design.activation]()
        self.gain = design.gain

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.phi(values) * self.gain
        return result


class SimpleCNN(nn.Module):
    """One simple CNN: [N, 1, L] or [N, 1, n, n] to [N].

    Layer k of the paper is the module ``layers.{k - 1}``.
    """

    def __init__(self, design: SimpleDesign) -> None:
        super().__init__()
        self.design = design
        channels = [1, *[design.channels] * design.depth]
        self.layers = nn.Sequential(
            *(nn.Sequential(_Convolution(before, design), _Activation(design)) for before in channels[:-1])
        )
        self.beta = nn.Parameter(torch.randn(design.channels))
        self.output_bias = nn.Parameter(torch.randn(()))

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.layers(images).flatten(2).mean(2)
        return pooled @ self.beta * self.design.readout + self.output_bias

    @torch.no_grad()
    def set_parameters(self, parameters: dict[str, Tensor]) -> "SimpleCNN":
        """Take the parameters of one member of an ensemble, named and shaped as :meth:`SimpleDesign.parameters` says."""
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Sequential)
            convolution = layer[0]
            assert isinstance(convolution, _Convolution)
            weight = parameters[f"weights.{index}"]
            before = convolution.weight.shape[1]
            sites = [self.design.filter_size] * self.design.dimension
            convolution.weight.copy_(weight.reshape(*sites, before, self.design.channels).movedim((-1, -2), (0, 1)))
            if convolution.bias is not None:
                convolution.bias.copy_(parameters[f"biases.{index}"])
        self.beta.copy_(parameters["beta"])
        self.output_bias.copy_(parameters["output_bias"])
        return self
