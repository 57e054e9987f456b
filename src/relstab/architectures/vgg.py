"""VGG for small images (Simonyan and Zisserman, arXiv 1409.1556): 3x3 convolutions, five poolings, one linear layer."""

from collections import OrderedDict

from torch import nn

from relstab.architectures.parts import MakeActivation, pooled, scaled

CHANNELS = (64, 128, 256, 512, 512)
"""Of the convolutions of each of the five stages; a stage ends with a 2x2 pooling."""

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Of each stage, by the number of weight layers of the original, which ends with three linear ones."""


def build(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float,
    activation: MakeActivation,
    pooling: str,
    depth: int,
    batch_norm: bool,
) -> nn.Module:
    """Convolutions as in the paper's table; what is left of the image is averaged and read out by one linear layer."""
    channels = image_shape[0]
    layers: list[nn.Module] = []
    for stage_channels, count in zip(CHANNELS, CONVOLUTIONS[depth], strict=True):
        maps = scaled(stage_channels, width)
        for position in range(count):
            norm = [nn.BatchNorm2d(maps)] if batch_norm else []
            block = [nn.Conv2d(channels, maps, 3, padding=1), *norm, activation()]
            layers += pooled(block, pooling) if position == count - 1 else block
            channels = maps
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*layers),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(channels, classes),
        )
    )
