"""Frequency content of filters: squared projections on the modes of the Laplacian of the filter grid."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LayerSpectrum", "filter_spectrum", "has_spectrum", "laplacian_modes", "layer_spectra"]

# Computed in numpy, so that the stage that analyses saved weights does not load torch.
Array = NDArray[np.float64]


@functools.lru_cache
def _modes(size: int) -> tuple[Array, Array]:
    position = np.arange(size)
    waves = np.cos(math.pi * position[:, None] * (position + 0.5) / size)  # DCT-II: [wave number, site]
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    line = 2 - 2 * np.cos(math.pi * position / size)
    # Equal eigenvalues differ by rounding: they are rounded before the stable sort, so that ties keep the order of (a, b).
    eigenvalues = (line[:, None] + line).ravel()
    order = np.argsort(eigenvalues.round(9), kind="stable")
    modes = np.einsum("ax,by->abxy", waves, waves).reshape(-1, size, size)
    return eigenvalues[order], modes[order]


def laplacian_modes(size: int) -> tuple["Tensor", "Tensor"]:
    """Eigenvalues and eigenvectors of the Laplacian of a grid of size x size sites with free ends.

    The eigenvectors are products of DCT-II modes,
    Psi_ab(row, col) ~ cos(pi a (row + 1/2) / F) cos(pi b (col + 1/2) / F), with eigenvalue
    (2 - 2 cos(pi a / F)) + (2 - 2 cos(pi b / F)), in order of the eigenvalue and, where it is degenerate, of (a, b).
    The first is the homogeneous filter.

    Args:
        size: F, sites per side, at least 1.

    Returns:
        eigenvalues [F * F] and orthonormal modes [F * F, F, F], in float64.
    """
    import torch

    if size < 1:
        raise ValueError(f"expected size to be at least 1, got {size}")
    eigenvalues, modes = _modes(size)
    return torch.from_numpy(eigenvalues.copy()), torch.from_numpy(modes.copy())


def _gamma(weight: NDArray[Any]) -> Array:
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.size == 0:
        raise ValueError(f"expected square filters of shape [out, in, F, F], got shape {tuple(weight.shape)}")
    filters = weight.reshape(-1, weight.shape[2] ** 2).astype(np.float64)
    _, modes = _modes(weight.shape[2])
    gamma: Array = np.square(filters @ modes.reshape(len(modes), -1).T).mean(0)
    return gamma


def filter_spectrum(weight: "Tensor | nn.Module | NDArray[Any]") -> "Tensor":
    """Average squared projection of filters on each Laplacian mode (paper, Eq. 3).

    gamma_l = 1 / (H H') * sum over the H x H' pairs of channels of (Psi_l . w_{c, c'})^2.

    Args:
        weight: filters of a convolution, [out, in, F, F]: a tensor, a numpy array, or the convolution itself.

    Returns:
        gamma, [F * F], in the order of :func:`laplacian_modes`, in float64, on the device of ``weight``; it sums to the mean of
        |w_{c, c'}|^2.
    """
    import torch

    weight = torch.as_tensor(weight.weight if isinstance(weight, torch.nn.Module) else weight)
    return torch.from_numpy(_gamma(weight.detach().double().cpu().numpy())).to(weight.device)


@dataclass(frozen=True)
class LayerSpectrum:
    """Spectrum of the filters of one convolution.

    Attributes:
        layer: name of the module.
        depth: k / K, for the k-th of K convolutions that have a spectrum.
        eigenvalue: of each mode of the grid Laplacian, [F * F], in increasing order.
        gamma: mean squared projection on each mode, [F * F], see :func:`filter_spectrum`.
    """

    layer: str
    depth: float
    eigenvalue: Array
    gamma: Array


def has_spectrum(shape: tuple[int, ...]) -> bool:
    """Whether weights are filters of more than one site on a square grid; filters of 1 x 7 sites have no modes of Eq. 3."""
    return len(shape) == 4 and shape[2] == shape[3] > 1


def layer_spectra(filters: Mapping[str, NDArray[np.floating[Any]]]) -> list[LayerSpectrum]:
    """Spectra of the convolutions of a network.

    Args:
        filters: weights [out, in, F, F] by the name of the layer, in the order of the network.
    """
    spectra = []
    for k, (layer, weight) in enumerate(filters.items(), start=1):
        gamma = _gamma(weight)
        spectra.append(LayerSpectrum(layer, k / len(filters), _modes(weight.shape[2])[0], gamma))
    return spectra
