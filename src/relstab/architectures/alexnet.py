"""AlexNet for small images (Krizhevsky et al., NeurIPS 2012), with 3x3 convolutions as in the paper's own code."""

from collections import OrderedDict

from torch import nn

from relstab.architectures.parts import MakeActivation, pooled, scaled

HIDDEN_UNITS = 4096


def build(image_shape: tuple[int, int, int], classes: int, width: float, activation: MakeActivation, pooling: str) -> nn.Module:
    """Five convolutions, the first of stride 2, three poolings, and two hidden layers of 4096 * width units with dropout.

    Images of 32 pixels reach the hidden layers as 2 x 2; larger ones are averaged down to that.
    """
    maps = [scaled(channels, width) for channels in (64, 192, 384, 256, 256)]
    units = scaled(HIDDEN_UNITS, width)
    # The architecture has this stride of 2 in addition to the pooling. Without pooling it is 4, as in AlexNet at 224 pixels.
    first = nn.Conv2d(image_shape[0], maps[0], 3, 4 if pooling == "none" else 2, padding=1)
    features = nn.Sequential(
        *([first, activation()] if pooling == "none" else pooled([first, activation()], pooling)),
        *pooled([nn.Conv2d(maps[0], maps[1], 3, padding=1), activation()], pooling),
        nn.Conv2d(maps[1], maps[2], 3, padding=1), activation(),
        nn.Conv2d(maps[2], maps[3], 3, padding=1), activation(),
        *pooled([nn.Conv2d(maps[3], maps[4], 3, padding=1), activation()], pooling),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(4 * maps[4], units), activation(),
        nn.Dropout(), nn.Linear(units, units), activation(),
        nn.Linear(units, classes),
    )  # fmt: skip
    return nn.Sequential(
        OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(2), flatten=nn.Flatten(), classifier=classifier)
    )
