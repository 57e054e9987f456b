"""Networks of timm, built by name, and the images that they were made for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

# timm imports torchvision, which does so beside a CPU build of torch only after this module.
from relstab.architectures.torchvision import torchvision as _torchvision  # noqa: F401
from relstab.runs.nearest import nearest

__all__ = ["ImagesOfNetwork", "build_timm", "images_of"]


class ImagesOfNetwork(NamedTuple):
    """Images that a network of timm was made for, as its ``pretrained_cfg`` describes them.

    Attributes:
        channels, size: of the square images.
        mean, std: by channel, of pixels from 0 to 1.
    """

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_timm(name: str, arguments: Mapping[str, Any] | None = None, seed: int = 0, pretrained: bool = False) -> nn.Module:
    """Network of timm in evaluation mode.

    Args:
        name: in timm's registry, such as "convnext_atto", or with the tag of its weights, "convnext_atto.d2_in1k".
        arguments: of its constructor.
        seed: of the initialization; torch's global generators keep their states.
        pretrained: take the published weights, from the cache of Hugging Face's hub or by a download.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: timm has no such network.
        OSError: the published weights do not exist or cannot be downloaded.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"expected timm for timm:{name}, which is not installed: pip install timm") from error
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or (tag and not timm.is_model_pretrained(name)):
        known = timm.list_pretrained(f"{architecture}.*") if tag else timm.list_models()
        raise ValueError(
            f"expected a name in timm.list_models() or timm.list_pretrained() of timm {timm.__version__}, got "
            f"'timm:{name}'{nearest(name, known, 3)}"
        )
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed the GPUs.
        torch.default_generator.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **(arguments or {}))
        except Exception as error:  # the hub and its transport can raise anything
            if not pretrained or isinstance(error, TypeError):  # an argument that the network does not take
                raise
            cause = " ".join(str(error).split())[:300]
            raise OSError(
                f"expected the weights that timm publishes for timm:{name} in the cache of Hugging Face's hub, or a connection "
                f"to it, got {type(error).__name__}: {cause}"
            ) from error
    return model.eval()


def images_of(model: nn.Module) -> ImagesOfNetwork:
    """Images that a network of :func:`build_timm` was made for."""
    import timm.data

    config = timm.data.resolve_data_config(model=model)
    channels, rows, _ = config["input_size"]
    return ImagesOfNetwork(channels, rows, tuple(config["mean"]), tuple(config["std"]))
