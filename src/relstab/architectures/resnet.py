"""ResNet for small images (He et al., arXiv 1512.03385): a 3x3 stem without pooling, torchvision's residual blocks."""

from collections import OrderedDict

from torch import nn

from relstab.architectures import scaled
from relstab.torchvision import torchvision


def build(image_shape: tuple[int, int, int], classes: int, width: float, blocks: tuple[int, ...]) -> nn.Module:
    """Stages of 64, 128, 256, 512 times ``width`` channels, of ``blocks`` basic blocks; all but the first halve the image."""
    basic_block = torchvision.models.resnet.BasicBlock
    channels = scaled(64, width)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(inplace=True),
    )
    for stage, count in enumerate(blocks):
        maps = scaled(64 * 2**stage, width)
        layers = []
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            downsample = None
            if stride != 1 or channels != maps:
                downsample = nn.Sequential(nn.Conv2d(channels, maps, 1, stride, bias=False), nn.BatchNorm2d(maps))
            layers.append(basic_block(channels, maps, stride, downsample))
            channels = maps
        parts[f"layer{stage + 1}"] = nn.Sequential(*layers)
    parts.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    return nn.Sequential(parts)
