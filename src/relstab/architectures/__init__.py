"""The architectures of the paper in the versions for small images: one registry from names to builders and recipes.

Adding an architecture is one entry here. Architectures of users are registered by :func:`own_architectures`. A builder is
``build(image_shape, classes, width, activation, pooling, **arguments) -> nn.Module``; it is named, not imported, so that a config
can be checked without loading torch.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from relstab.architectures.user_code import file_of, load_function, source_digest
from relstab.runs.nearest import nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ACTIVATION_NAMES",
    "ARCHITECTURES",
    "ActivationName",
    "Architecture",
    "POOLING_NAMES",
    "PoolingName",
    "TIMM",
    "architecture_source",
    "build_model",
    "describe_own",
    "own_architectures",
]

ActivationName = Literal["relu", "tanh", "gelu", "abs"]
PoolingName = Literal["max", "average", "none"]
ACTIVATION_NAMES = get_args(ActivationName)
POOLING_NAMES = get_args(PoolingName)
TIMM = "timm:"
"""Beginning of the names of timm's networks, ``timm:convnext_atto``."""


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        label: its name in figures.
        module: of this package, with the builder.
        recipe: what it needs to learn, where that differs from the paper's recipe: keys of :class:`relstab.config.Training`.
        arguments: of the builder, besides the shape, the classes, the width, the activation and the pooling.
        convolutional: whether it has convolutions, to shuffle and analyse.
        activation: its default, from its paper.
        pooling: its default: "max", or "none" where its convolutions have strides instead (or it has none).
        skips: whether it has skip connections.
        builder: of a user's architecture, ``path/to/file.py:function`` in place of the module.
        launch_bound: whether a GPU takes longer to launch the kernels of its step than to run them.
    """

    label: str
    module: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    convolutional: bool = True
    activation: str = "relu"
    pooling: str = "max"
    skips: bool = False
    builder: str = ""
    launch_bound: bool = False


# Weights of variance 2 / fan-in keep the signal of deep networks without batch norm alive; a learning rate that rises slowly
# keeps them from losing their ReLUs at the start.
_WITHOUT_BATCH_NORM = {"learning_rate": 0.02, "initialization": "he", "warmup_epochs": 2}
# At the paper's learning rate, these networks stay near chance for many epochs without a warm-up.
_DEEP_VGG_WITH_BATCH_NORM = {"warmup_epochs": 2}
# The reference's values. A step of Adam changes a weight by about the learning rate, and weights are of order one here.
_FULLY_CONNECTED = {"optimizer": "adam", "learning_rate": 0.1, "weight_decay": 0.0, "schedule": "constant"}
_WIDE = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0}


def _fully_connected(weight_layers: int) -> Architecture:
    """DenseNetL2, L4 or L6 of the reference implementation: the read-out is one of the layers that the name counts."""
    arguments = {"weight_layers": weight_layers, "hidden_units": 64, "normalised": True}
    return Architecture(
        f"FC-{weight_layers}", "fully_connected", _FULLY_CONNECTED, arguments, False, pooling="none", launch_bound=True
    )


def _wide(hidden_layers: int) -> Architecture:
    arguments = {"weight_layers": hidden_layers + 1, "hidden_units": 512, "normalised": False}
    return Architecture(f"FC-{hidden_layers} wide", "fully_connected", _WIDE, arguments, False, pooling="none", launch_bound=True)


def _vgg(depth: int, batch_norm: bool) -> Architecture:
    label = f"VGG{depth}{'bn' if batch_norm else ''}"
    with_batch_norm = _DEEP_VGG_WITH_BATCH_NORM if depth >= 16 else {}
    recipe = with_batch_norm if batch_norm else _WITHOUT_BATCH_NORM
    return Architecture(label, "vgg", recipe, {"depth": depth, "batch_norm": batch_norm})


def _resnet(depth: int, block: str, blocks: tuple[int, ...]) -> Architecture:
    return Architecture(f"ResNet{depth}", "resnet", {}, {"block": block, "blocks": blocks}, pooling="none", skips=True)


ARCHITECTURES: dict[str, Architecture] = {
    "fc2": _fully_connected(2),
    "fc4": _fully_connected(4),
    "fc6": _fully_connected(6),
    "fc2_wide": _wide(2),
    "fc4_wide": _wide(4),
    "fc6_wide": _wide(6),
    "lenet": Architecture("LeNet", "lenet", {"learning_rate": 0.02}, launch_bound=True),
    "alexnet": Architecture("AlexNet", "alexnet", _WITHOUT_BATCH_NORM),
    "vgg11": _vgg(11, batch_norm=False),
    "vgg13": _vgg(13, batch_norm=False),
    "vgg16": _vgg(16, batch_norm=False),
    "vgg19": _vgg(19, batch_norm=False),
    "vgg11_bn": _vgg(11, batch_norm=True),
    "vgg13_bn": _vgg(13, batch_norm=True),
    "vgg16_bn": _vgg(16, batch_norm=True),
    "vgg19_bn": _vgg(19, batch_norm=True),
    "resnet18": _resnet(18, "BasicBlock", (2, 2, 2, 2)),
    "resnet34": _resnet(34, "BasicBlock", (3, 4, 6, 3)),
    "resnet50": _resnet(50, "Bottleneck", (3, 4, 6, 3)),
    "efficientnet_b0": Architecture("EfficientNetB0", "efficientnet", activation="silu", pooling="none", skips=True),
}


def own_architectures(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Register architectures of a user, beside relstab's and those registered before.

    Args:
        entries: by name: ``builder``, a reference ``path/to/file.py:function`` to a function of the shape of the images and the
            number of classes that returns a module, and may take ``width``, ``activation`` and ``pooling``; and ``label`` (by
            default the name), ``convolutional`` (True) and ``skips`` (False).
    """
    ARCHITECTURES.update(describe_own(entries))


def describe_own(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Architecture]:
    """Check the arguments of :func:`own_architectures` and describe them, without registering them."""
    checked = {}
    for name, entry in entries.items():
        known = ARCHITECTURES.get(name)
        if not name.isidentifier() or (known is not None and not known.builder):
            raise ValueError(
                f"expected a name of letters, digits and _ for your architecture, not one of relstab's, got {name!r}"
            )
        file_of(entry["builder"])
        checked[name] = Architecture(
            entry.get("label") or name,
            convolutional=entry.get("convolutional", True),
            skips=entry.get("skips", False),
            builder=entry["builder"],
        )
    return checked


def architecture_source(name: str) -> dict[str, str]:
    """What a user's architecture depends on besides the recipe: its builder and the digest of its file. Empty for relstab's."""
    reference = ARCHITECTURES[name].builder
    return {"builder": reference, "source": source_digest(reference)} if reference else {}


def _build_own(name: str, image_shape: tuple[int, int, int], classes: int, asked: Mapping[str, Any]) -> "nn.Module":
    """Network of a user's architecture, with the requested width, activation and pooling."""
    import torch
    from torch import nn

    from relstab.channel_shuffle import computed_weights

    reference = ARCHITECTURES[name].builder
    builder = load_function(reference)
    parameters = inspect.signature(builder).parameters
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in asked:
        if key not in parameters and not any_keyword:
            raise ValueError(
                f"expected a builder of {name} with an argument {key}, got {reference} without it: leave {key} out for {name}"
            )
    seed = torch.initial_seed()
    model = builder(image_shape, classes, **asked)
    if torch.initial_seed() != seed:
        raise ValueError(
            f"expected a builder that leaves torch's random numbers to relstab, got {reference} of {name}, which sets their "
            f"seed, so that all its networks would begin alike: leave out torch.manual_seed"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"expected the builder of {name}, {reference}, to return a torch.nn.Module, got a {type(model).__name__}"
        )
    if ARCHITECTURES[name].convolutional and (computed := computed_weights(model)) is not None:
        raise ValueError(
            f"expected convolutions with plain weights from the builder of {name}, {reference}, got {computed!r}, whose weights "
            f"are computed (weight norm, for instance), so that they can be neither shuffled nor analysed: leave that out, or "
            f"set own_architectures.{name}.convolutional: false (config.yaml)"
        )
    return model


def build_model(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    activation: str | None = None,
    pooling: str | None = None,
) -> "nn.Module":
    """Network by its name in :data:`ARCHITECTURES`, with torch's default initialization.

    Args:
        name: as in ``config.yaml``.
        image_shape: channels, rows and columns of the images it takes.
        classes: number of outputs; 1 for two classes, which the sign of the output tells apart.
        width: multiplier of the number of channels or hidden units of every layer.
        activation: "relu", "tanh", "gelu" or "abs" everywhere; None for the architecture's own.
        pooling: "max", "average", or "none" for strides instead; None for the architecture's own.
    """
    if name not in ARCHITECTURES:
        hint = nearest(name, ARCHITECTURES, 3, 0.6)
        raise ValueError(f"expected an architecture among {', '.join(ARCHITECTURES)}, got {name!r}{hint}")
    if not width > 0:
        raise ValueError(f"expected width to be a positive multiplier, got {width}")
    if classes < 1:
        raise ValueError(f"expected classes to be at least 1, got {classes}")
    if activation is not None and activation not in ACTIVATION_NAMES:
        raise ValueError(f"expected activation to be one of {', '.join(ACTIVATION_NAMES)}, got {activation!r}")
    if pooling is not None and pooling not in POOLING_NAMES:
        raise ValueError(f"expected pooling to be one of {', '.join(POOLING_NAMES)}, got {pooling!r}")
    entry = ARCHITECTURES[name]
    if entry.pooling == "none" and pooling not in (None, "none"):
        raise ValueError(
            f"expected pooling of {name} to be 'none' or left out, since it has no pooling to replace, got {pooling!r}"
        )
    if entry.builder:
        asked = {"width": width if width != 1 else None, "activation": activation, "pooling": pooling}
        return _build_own(name, image_shape, classes, {key: value for key, value in asked.items() if value is not None})
    from relstab.architectures.parts import ACTIVATIONS

    builder = importlib.import_module(f"{__name__}.{entry.module}")
    make_activation = ACTIVATIONS[activation or entry.activation]
    model: nn.Module = builder.build(image_shape, classes, width, make_activation, pooling or entry.pooling, **entry.arguments)
    return model
