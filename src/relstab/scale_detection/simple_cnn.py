"""Simple convolutional networks for the scale-detection tasks: nothing but filters, strides and an average (paper, section 4).

Layer k of K takes windows of F sites, s apart, on a ring:

    f_k(i) = sqrt(F) phi( b_k + sum over window j, channels c of w_k(j, c) f_{k-1}(i s + j, c) / sqrt(fan-in) ),   k = 1 ... K,
    f(x) = b + 1/H sum over channels h of beta_h mean over sites of f_K(., h)        (mean-field; 1/sqrt(H) in the NTK scaling),

all weights and biases standard normal at first. Windows of even size begin (F - 1) // 2 sites before i s, as those of odd size
do.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from relstab.architectures.parts import ACTIVATIONS
from relstab.scale_detection.design import Scaling, SimpleDesign

__all__ = ["Scaling", "SimpleCNN", "SimpleDesign", "windows"]


def windows(size: int, design: SimpleDesign) -> list[Tensor]:
    """For each layer, the sites that each of its windows reads, [sites after, sites in a window], int64.

    Args:
        size: sites of the ring.
        design: of the network.
    """
    layers = []
    for sites in design.sizes(size)[:-1]:
        starts = torch.arange(0, sites, design.stride) - (design.filter_size - 1) // 2
        layers.append((starts[:, None] + torch.arange(design.filter_size)) % sites)
    return layers


class _Convolution(nn.Module):
    """Circular convolution of one layer, without its activation."""

    def __init__(self, before: int, design: SimpleDesign) -> None:
        super().__init__()
        self.design = design
        self.weight = nn.Parameter(torch.randn(design.channels, before, design.filter_size))
        self.bias = nn.Parameter(torch.randn(design.channels))

    def forward(self, values: Tensor) -> Tensor:
        left = (self.design.filter_size - 1) // 2
        padded = functional.pad(values, (left, self.design.filter_size - 1 - left), mode="circular")
        fan_in = self.weight[0].numel()
        return functional.conv1d(padded, self.weight / fan_in**0.5, self.bias, stride=self.design.stride)


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
    """One simple CNN: [N, 1, L] to [N].

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
        pooled = self.layers(images).mean(2)
        outputs: Tensor = pooled @ self.beta * self.design.readout + self.output_bias
        return outputs

    @torch.no_grad()
    def set_parameters(self, parameters: dict[str, Tensor]) -> "SimpleCNN":
        """Take the parameters of one member of an ensemble, named and shaped as :meth:`SimpleDesign.parameters` says."""
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Sequential)
            convolution = layer[0]
            assert isinstance(convolution, _Convolution)
            weight = parameters[f"weights.{index}"]
            before = convolution.weight.shape[1]
            convolution.weight.copy_(weight.reshape(self.design.filter_size, before, self.design.channels).permute(2, 1, 0))
            convolution.bias.copy_(parameters[f"biases.{index}"])
        self.beta.copy_(parameters["beta"])
        self.output_bias.copy_(parameters["output_bias"])
        return self
