"""An architecture of one's own: two convolutions, an average over space, and a linear read-out."""

from torch import nn


def build(image_shape: tuple[int, int, int], classes: int, width: float = 1.0) -> nn.Module:
    """Network for images of ``image_shape``: channels, rows and columns.

    ``width`` may be left out, and so may ``activation`` and ``pooling``, which this one does not take: the config can then not
    ask for them. Each activation is a module of its own, so that it is a layer that relstab measures.
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
