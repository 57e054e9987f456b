"""A user architecture: two convolutions, an average over space, and a linear read-out."""

from torch import nn


def build(image_shape: tuple[int, int, int], classes: int, width: float = 1.0) -> nn.Module:
    """Network for images of ``image_shape``: channels, rows and columns.

    A builder may also take ``activation`` and ``pooling``, and need not take ``width``; the config can only set what it takes.
    Each activation is a module, so that relstab measures it as a layer.
    """
    channels = round(32 * width)
    return nn.Sequential(
        nn.Conv2d(image_shape[0], channels, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )
