"""VGG for small images (Simonyan and Zisserman, arXiv 1409.1556): 3x3 convolutions, five poolings, one linear layer."""

from collections import OrderedDict

from torch import nn

from relstab.architectures import scaled

# Channels of the convolutions; None is a 2x2 max pooling.
LAYOUTS: dict[str, tuple[int | None, ...]] = {
    "11": (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None),
}


def build(image_shape: tuple[int, int, int], classes: int, width: float, layout: str, batch_norm: bool) -> nn.Module:
    """Convolutions as in the paper's table; what is left of the image is averaged and read out by one linear layer.

    Pooling rounds up, so that images of 28 pixels survive all five; on multiples of 32 that changes nothing.
    """
    channels = image_shape[0]
    layers: list[nn.Module] = []
    for entry in LAYOUTS[layout]:
        if entry is None:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            continue
        maps = scaled(entry, width)
        layers.append(nn.Conv2d(channels, maps, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(maps))
        layers.append(nn.ReLU(inplace=True))
        channels = maps
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*layers),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(channels, classes),
        )
    )
