"""ResNet for small images (He et al., arXiv 1512.03385): a 3x3 stem without pooling, torchvision's residual blocks."""

from collections import OrderedDict

from torch import nn

from relstab.architectures.parts import MakeActivation, replace_activations, scaled
from relstab.architectures.torchvision import torchvision


def build(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float,
    activation: MakeActivation,
    _pooling: str,
    block: str,
    blocks: tuple[int, ...],
) -> nn.Module:
    """Four stages of ``blocks`` blocks on 64, 128, 256, 512 times ``width`` channels; all but the first halve the image.

    ``block`` is "BasicBlock" or "Bottleneck", which returns four times the channels of its stage.
    """
    make_block = getattr(torchvision.models.resnet, block)
    channels = scaled(64, width)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(inplace=True),
    )
    for stage, count in enumerate(blocks):
        maps = scaled(64 * 2**stage, width)
        layers = []
        for position in range(count):
            stride = 2 if stage > 0 and position == 0 else 1
            downsample = None
            if stride != 1 or channels != maps * make_block.expansion:
                outputs = maps * make_block.expansion
                downsample = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            layers.append(make_block(channels, maps, stride, downsample))
            channels = maps * make_block.expansion
        parts[f"layer{stage + 1}"] = nn.Sequential(*layers)
    parts.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    model = nn.Sequential(parts)
    replace_activations(model, activation)
    return model
