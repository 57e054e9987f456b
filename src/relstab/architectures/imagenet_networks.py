"""Networks that torchvision or timm publishes, on one scale of images: pixels normalised with ImageNet's statistics."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relstab.architectures import TIMM
from relstab.architectures.timm_networks import build_timm, images_of
from relstab.architectures.torchvision_networks import build_torchvision

__all__ = ["MEAN", "STD", "build_imagenet_network", "check_image_size"]

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training pixels, by channel, on the scale from 0 to 1."""

STD = (0.229, 0.224, 0.225)
"""Standard deviation of these pixels."""


class _OwnScale:
    """Forward pre-hook that brings images from ImageNet's scale to that of a network: (x STD + MEAN - mean) / std."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        own = torch.tensor(std)
        self.factor = (torch.tensor(STD) / own)[:, None, None]
        self.shift = ((torch.tensor(MEAN) - torch.tensor(mean)) / own)[:, None, None]

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, *others = args
        return (images * self.factor.to(images) + self.shift.to(images), *others)


def build_imagenet_network(name: str, arguments: Mapping[str, Any] | None = None, seed: int = 0) -> nn.Module:
    """Network as its constructor initialises it, in evaluation mode, for images [N, 3, n, n] that are normalised with
    :data:`MEAN` and :data:`STD`.

    A network of timm that was made for another mean and standard deviation brings the images to its scale first, as
    torchvision's googlenet and inception_v3 do. So all networks see the same perturbed images.

    Args:
        name: in torchvision's registry, such as "resnet18"; or "timm:" and a name in timm's.
        arguments: of the constructor.
        seed: of the initialization; torch's global generators keep their states.
    """
    if not name.startswith(TIMM):
        return build_torchvision(name, arguments, seed)
    model = build_timm(name.removeprefix(TIMM), arguments, seed)
    made_for = images_of(model)
    if made_for.channels != len(MEAN):
        raise ValueError(f"expected a network of images with 3 channels, got {name} with {made_for.channels}")
    if (made_for.mean, made_for.std) != (MEAN, STD):
        model.register_forward_pre_hook(_OwnScale(made_for.mean, made_for.std))
    return model


def check_image_size(model: nn.Module, images: Tensor, name: str) -> None:
    """Run two images through a network, so that a wrong image size is reported before the network is measured.

    Raises:
        ValueError: the network does not take images of this size.
        TypeError: its output is not one tensor.
    """
    size = images.shape[-1]
    try:
        with torch.no_grad():
            output = model(images[:2])
    except (RuntimeError, AssertionError, ValueError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        made_for = f"{images_of(model).size} pixels" if name.startswith(TIMM) else "224 pixels for most networks"
        raise ValueError(
            f"expected images of a size that {name} takes, {made_for}, got {size} x {size} pixels (config.yaml: imagenet.crop); "
            f"the network reports: {cause}"
        ) from error
    if not isinstance(output, Tensor):
        raise TypeError(f"expected one tensor as the output of {name}, got {type(output).__name__}")
