"""Networks by their names on the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relstab.architectures.imagenet_networks import MEAN, STD
from relstab.architectures.timm_networks import build_timm, images_of
from relstab.architectures.torchvision import torchvision
from relstab.architectures.torchvision_networks import build_torchvision, fit_weights, read_weights
from relstab.architectures.user_code import load_function
from relstab.files.hdf5 import read_attributes
from relstab.files.network import load_network

__all__ = ["NamedModel", "load_model"]


@dataclass
class NamedModel:
    """A network and the images it was made for.

    Attributes:
        name: in tables and pictures.
        model: in evaluation mode, on the CPU.
        channels, size: of its images.
        normalisation: mean and standard deviation by channel of pixels from 0 to 1; None for those of the images at hand.
    """

    name: str
    model: nn.Module
    channels: int = 3
    size: int = 224
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def _seeded(build: Callable[[], Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def _timm(name: str, pretrained: bool, size: int | None, seed: int) -> NamedModel:
    try:  # transformers have parameters per patch
        model = build_timm(name, {} if size is None else {"img_size": size}, seed, pretrained)
    except TypeError:
        model = build_timm(name, {}, seed, pretrained)
    made_for = images_of(model)
    return NamedModel(name, model, made_for.channels, size or made_for.size, (made_for.mean, made_for.std))


def _torchvision(name: str, pretrained: bool, size: int | None, seed: int) -> NamedModel:
    arguments = {"image_size": size} if size is not None and name.startswith("vit_") else {}
    model = build_torchvision(name, arguments, seed)
    if pretrained:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        model = torchvision.models.get_model(name, weights=weights, **arguments)
    return NamedModel(name, model, 3, size or (299 if name == "inception_v3" else 224), (MEAN, STD))


def _own(reference: str, size: int | None, seed: int) -> NamedModel:
    model = _seeded(load_function(reference), seed)
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected {reference} to return a torch.nn.Module, got {type(model).__name__}")
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return NamedModel(reference.rpartition(":")[2], model, first.in_channels if first is not None else 3, size or 224)


def _of_a_run(path: Path, state: str) -> NamedModel:
    attributes = read_attributes(path)
    name = f"{attributes.get('architecture', path.stem)} {state}"
    if "image_shape" not in attributes:
        return NamedModel(name, load_network(path, state), normalisation=(MEAN, STD))
    channels, size, _ = (int(n) for n in attributes["image_shape"])
    return NamedModel(name, load_network(path, state), channels, size)


def load_model(
    reference: str,
    pretrained: bool = False,
    weights: Path | None = None,
    state: str = "last",
    size: int | None = None,
    seed: int = 0,
) -> NamedModel:
    """Network by its reference.

    Args:
        reference: "timm:NAME", "torchvision:NAME", "PATH.py:FUNCTION", or the HDF5 file of a network of a run.
        pretrained: take published weights; only for the first two.
        weights: file of a state dict.
        state: of a network of a run.
        size: of the images, if not that for which the network was made.
        seed: of an initialization.

    Raises:
        ValueError: an unknown reference, weights that do not fit.
    """
    source, _, name = reference.partition(":")
    if pretrained and source not in ("timm", "torchvision"):
        raise ValueError(f"expected --pretrained with timm:NAME or torchvision:NAME, got {reference}: give its --weights")
    if source == "timm":
        named = _timm(name, pretrained, size, seed)
    elif source == "torchvision":
        named = _torchvision(name, pretrained, size, seed)
    elif reference.endswith((".h5", ".hdf5")):
        named = _of_a_run(Path(reference), state)
        named.size = size or named.size
    elif ".py:" in reference:
        named = _own(reference, size, seed)
    else:
        raise ValueError(
            f"expected timm:NAME, torchvision:NAME, PATH.py:FUNCTION or the file of a network of a run, got {reference!r}: "
            f"perhaps torchvision:{reference}"
        )
    if weights is not None:
        named.model.load_state_dict(fit_weights(named.model, read_weights(weights, named.name), weights, named.name))
    named.model.eval()
    return named
