"""Whether a network is a function of one image: D, G and R require that no random number and no other image enters."""

from typing import Literal

import torch
from torch import Tensor, nn

from relstab.activations import evaluating, tensors
from relstab.runs.devices import repeatable

__all__ = ["departure"]

# Images of the batch on which a network is tried, and how many of them are in the smaller batch.
_IMAGES, _FEWER = 4, 2


def _run(model: nn.Module, images: Tensor) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors(model(images)) if tensor.is_floating_point()]


def _states_of_generators(images: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if images.is_cuda else [])]


def _comparable(first: list[Tensor], second: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(a, b) for a, b in zip(first, second, strict=False) if a.shape == b.shape]


def _alike(first: list[Tensor], second: list[Tensor], rtol: float, atol: float) -> bool:
    """Whether numbers are close where their shapes can be compared."""
    return all(torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True) for a, b in _comparable(first, second))


def departure(model: nn.Module, images: Tensor, fewer: list[Tensor] | None = None) -> Literal["random", "company"] | None:
    """Why a network in evaluation mode is not a function of one image; None where it is one.

    A "random" network draws random numbers: its R is about 1, whatever the network is. A "company" network gives an image another
    output among other images: its D and G depend on the size of the batch.

    Args:
        model: any module.
        images: [N, ...]; the first four are put through the network, and two of them alone. If these outputs differ, the four are
            put through again, which tells the two causes apart.
        fewer: the floating-point tensors that the network returned for the first two images, if they are known.
    """
    parameter = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), images)
    batch = images[:_IMAGES].to(parameter)
    with evaluating(model), repeatable(batch.device):
        before = _states_of_generators(batch)
        output = _run(model, batch)
        if not all(map(torch.equal, before, _states_of_generators(batch))):
            return "random"
        if fewer is None:
            fewer = _run(model, batch[:_FEWER])
        of_images = [tensor[: len(batch[:_FEWER])] if tensor.ndim and len(tensor) == len(batch) else tensor for tensor in output]
        all_compared = len(_comparable(of_images, fewer)) == len(output) == len(fewer)
        if all_compared and _alike(of_images, fewer, rtol=1e-3, atol=1e-8):
            return None
        if not _alike(output, _run(model, batch), rtol=1e-3, atol=1e-8):
            return "random"
    return None if _alike(of_images, fewer, rtol=1e-2, atol=1e-3) else "company"
