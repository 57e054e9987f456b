"""Running statistics of batch norm at initialization."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["estimate_batch_statistics"]


def estimate_batch_statistics(model: nn.Module, images: Tensor, batch_size: int = 250) -> None:
    """Set the running mean and variance of every batch norm to those of ``images``, in place.

    A network that was never trained has running mean 0 and variance 1, which are not statistics of its activations. Here the
    images go through it once with batch norm in training mode, and the statistics of the batches are averaged with equal
    weights. Afterwards the network is one function of an image and its perturbed versions. (The reference implementation
    normalises each version by its own statistics instead.)

    Args:
        model: any module; a network without batch norm stays as it is.
        images: [N, ...], unperturbed, normalised as the network expects them.
        batch_size: images per batch; the last, smaller batch is skipped if there are others.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    if len(images) < 2:
        raise ValueError(f"expected at least 2 images to estimate statistics of, got {len(images)}")
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()  # dropout stays off
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over batches
        with torch.no_grad():
            for start in range(0, max(len(images) - len(images) % batch_size, 1), batch_size):
                model(images[start : start + batch_size])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
