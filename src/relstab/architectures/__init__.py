"""The architectures of the paper in the versions for small images: one registry from names to builders.

Adding an architecture is one entry here. A builder is ``build(image_shape, classes, width, **arguments) -> nn.Module``; it is
named, not imported, so that a config can be checked without loading torch.
"""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ARCHITECTURES", "Architecture", "build_model"]


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        label: its name in figures.
        module: of this package, with the builder.
        convolutional: whether it has convolutions, to shuffle and analyse.
        arguments: of the builder, besides the shape, the classes and the width.
    """

    label: str
    module: str
    convolutional: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture] = {
    "fc2": Architecture("FC-2", "fully_connected", False, {"hidden_layers": 2}),
    "fc4": Architecture("FC-4", "fully_connected", False, {"hidden_layers": 4}),
    "lenet": Architecture("LeNet", "lenet"),
    "vgg11": Architecture("VGG11", "vgg", arguments={"layout": "11", "batch_norm": False}),
    "vgg11_bn": Architecture("VGG11bn", "vgg", arguments={"layout": "11", "batch_norm": True}),
    "resnet18": Architecture("ResNet18", "resnet", arguments={"blocks": (2, 2, 2, 2)}),
}


def scaled(channels: int, width: float) -> int:
    """Number of channels times the width multiplier, at least one."""
    return max(1, round(channels * width))


def build_model(name: str, image_shape: tuple[int, int, int], classes: int, width: float = 1.0) -> "nn.Module":
    """Network by its name in :data:`ARCHITECTURES`, with torch's default initialization.

    Args:
        name: as in ``config.yaml``.
        image_shape: channels, rows and columns of the images it takes.
        classes: number of outputs, at least 2.
        width: multiplier of the number of channels or hidden units of every layer.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, 1)
        hint = f" (nearest: {near[0]!r})" if near else ""
        raise ValueError(f"architecture {name!r} is unknown{hint}: one of {', '.join(ARCHITECTURES)} is wanted")
    if not width > 0:
        raise ValueError(f"width is {width}: a positive multiplier is wanted")
    if classes < 2:
        raise ValueError(f"classes is {classes}: at least 2 are wanted")
    entry = ARCHITECTURES[name]
    builder = importlib.import_module(f"{__name__}.{entry.module}")
    model: nn.Module = builder.build(image_shape, classes, width, **entry.arguments)
    return model
