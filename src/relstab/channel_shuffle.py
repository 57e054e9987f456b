"""Shuffling the channels between convolutions: it breaks channel pooling and leaves spatial pooling."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["CONVOLUTIONS", "computed_weights", "shuffle_channels"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _ReadChannels:
    """Forward pre-hook that hands the input's channels to a convolution in another order."""

    def __init__(self, order: Tensor) -> None:
        self.order = order

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], Any]:
        values = args[0] if args else named["input"]
        return (values.index_select(1, self.order.to(values.device)),), {}


def computed_weights(model: nn.Module) -> str | None:
    """Name of the first convolution whose weights are computed, as those of weight norm are; None where all are parameters."""
    for name, module in model.named_modules():
        if isinstance(module, CONVOLUTIONS) and "weight" not in module._parameters:
            return str(name)
    return None


def shuffle_channels(model: nn.Module, which: Literal["input", "both"] = "input", seed: int = 0) -> nn.Module:
    """Copy of a network in which every convolution reads its input channels in a random order (paper, section 2).

    The weights w[c, c', ...] of each convolution become w[c, p(c'), ...], with another random permutation p for each; biases and
    every single filter stay as they are. In a convolution with groups, a filter sees only the channels of its group, which
    are permuted within the group. In a depthwise convolution a group is a single channel; there, filter c is applied to channel
    p(c). A hook does this, since weights cannot.

    Args:
        model: any module; it is not changed. Convolutions are Conv1d, Conv2d and Conv3d.
        which: "input" permutes what each filter reads; "both" also permutes the order of the filters, the output channels.
        seed: of the permutations; the same seed gives the same ones on every device.
    """
    if which not in ("input", "both"):
        raise ValueError(f"expected which to be 'input' or 'both', got {which!r}")
    if (computed := computed_weights(model)) is not None:
        raise ValueError(
            f"expected convolutions with plain weights, got {computed!r}, whose weights are computed (a parametrization such as "
            f"weight norm); remove it with torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm of "
            f"torch.nn.utils"
        )
    shuffled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in shuffled.modules():
            if not isinstance(module, CONVOLUTIONS):
                continue
            weight = module.weight
            filters, channels = weight.shape[:2]
            new = weight.clone()
            if channels == 1 and module.groups > 1:
                order = torch.randperm(module.groups, generator=generator)
                module.register_forward_pre_hook(_ReadChannels(order), with_kwargs=True)
            else:
                group_size = filters // module.groups
                for start in range(0, filters, group_size):
                    order = torch.randperm(channels, generator=generator)
                    new[start : start + group_size] = weight[start : start + group_size, order.to(weight.device)]
            if which == "both":
                new = new[torch.randperm(filters, generator=generator).to(weight.device)]
            weight.copy_(new)
    return shuffled
