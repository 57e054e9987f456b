"""LeNet-5 with ReLU and max pooling (LeCun et al., Proc. IEEE 1998)."""

from collections import OrderedDict

from torch import nn

from relstab.architectures.parts import MakeActivation, pooled, scaled


def build(image_shape: tuple[int, int, int], classes: int, width: float, activation: MakeActivation, pooling: str) -> nn.Module:
    """Two 5x5 convolutions of 6 and 16 channels, each pooled 2x2, and hidden layers of 120 and 84 units."""
    channels, *size = image_shape
    if min(size) < 16:
        raise ValueError(f"expected images of at least 16 x 16 pixels for LeNet, got {size[0]} x {size[1]}")
    rows, cols = (-(-(-(-(n - 4) // 2) - 4) // 2) for n in size)  # halves are rounded up
    maps = [scaled(6, width), scaled(16, width)]
    units = [scaled(120, width), scaled(84, width)]
    features = nn.Sequential(
        *pooled([nn.Conv2d(channels, maps[0], 5), activation()], pooling),
        *pooled([nn.Conv2d(maps[0], maps[1], 5), activation()], pooling),
    )
    classifier = nn.Sequential(
        nn.Flatten(),
        nn.Linear(maps[1] * rows * cols, units[0]), activation(),
        nn.Linear(units[0], units[1]), activation(),
        nn.Linear(units[1], classes),
    )  # fmt: skip
    return nn.Sequential(OrderedDict(features=features, classifier=classifier))
