"""Effective receptive field A_k of a layer, measured: how far the response to one lit site spreads (paper, section 4).

With r(i) = |f_k(x_j)(i) - f_k(0)(i)| the response of site i of layer k to an image x_j with only site j lit, over a blank one,

    A_k = S_k * mean over j of (sum_i r(i))^2 / sum_i r(i)^2,

S_k being the sites of the input for each site of the layer: the participation ratio of the response, in sites of the input. |.|
is the norm over channels, or the absolute value of their average. Homogeneous filters
give the A_k of :func:`relstab.scale_detection.homogeneous.receptive_fields` for s = 1 and for s = F.
"""

import torch
from torch import Tensor

__all__ = ["participation_field"]


def _strength(response: Tensor, blank: Tensor, average: bool) -> Tensor:
    """r, [..., N, sites], of representations [..., N, sites, channels]."""
    difference = response - blank
    return difference.mean(-1).abs() if average else torch.linalg.vector_norm(difference, dim=-1)


def participation_field(response: Tensor, blank: Tensor, sites: int, average: bool = False) -> Tensor:
    """A_k [...] from the participation ratio; lit sites to which a layer does not respond at all are left out.

    Args:
        response: f_k of the images with one lit site each, [..., N, sites of the layer, channels].
        blank: f_k of the blank image, [..., 1, sites of the layer, channels].
        sites: of the input.
        average: whether channels are averaged first.
    """
    strength = _strength(response, blank, average).double()
    square = strength.square().sum(-1)
    ratio = strength.sum(-1).square() / square
    return (ratio * (sites / strength.shape[-1])).nanmean(-1)
