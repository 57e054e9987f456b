"""EfficientNet-B0 for small images (Tan and Le, arXiv 1905.11946): a stem of stride 1, torchvision's inverted residual blocks."""

from collections import OrderedDict

from torch import nn

from relstab.architectures.parts import MakeActivation, replace_activations
from relstab.architectures.torchvision import torchvision

STEM_CHANNELS = 32

# Expansion, kernel, stride, channels and number of blocks of each stage.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

# Before the read-out.
DROPOUT = 0.2
# Probability of leaving a block out: 0.2 in the last one of Tan and Le, 0 in effect in the reference implementation.
DROP_CONNECT = 0.0


def build(image_shape: tuple[int, int, int], classes: int, width: float, activation: MakeActivation, _pooling: str) -> nn.Module:
    """Seven stages of inverted residual blocks, read out by one linear layer without the 1,280 channels for ImageNet before it.

    Numbers of channels are multiples of 8 at every width, as torchvision rounds them.
    """
    efficientnet = torchvision.models.efficientnet
    channels = efficientnet.MBConvConfig.adjust_channels(STEM_CHANNELS, width)
    stem = torchvision.ops.Conv2dNormActivation(image_shape[0], channels, 3, 1, activation_layer=nn.SiLU)
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    for number, (expansion, kernel, stride, stage_channels, count) in enumerate(STAGES, start=1):
        maps = efficientnet.MBConvConfig.adjust_channels(stage_channels, width)
        layers = []
        for position in range(count):
            block = efficientnet.MBConvConfig(expansion, kernel, stride if position == 0 else 1, channels, maps, 1)
            layers.append(efficientnet.MBConv(block, DROP_CONNECT, nn.BatchNorm2d))
            channels = maps
        parts[f"stage{number}"] = nn.Sequential(*layers)
    parts.update(
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(channels, classes)),
    )
    model = nn.Sequential(parts)
    replace_activations(model, activation)
    return model
