"""Many simple CNNs of one design as one batched computation: parameters [M, ...] of M members, one product per layer for all.

A layer of all members is one batched product of windows, [M, images * sites, window * channels], with weights, [M, window *
channels, H]. Members share nothing: each has its own images, learning rate and loss, and gets the numbers that it would get
alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from relstab.runs.seeding import make_generator
from relstab.scale_detection.simple_cnn import SimpleDesign, windows

__all__ = ["Ensemble", "initial_parameters"]


def initial_parameters(design: SimpleDesign, identities: Sequence[Sequence[str | int | float]]) -> dict[str, Tensor]:
    """Standard normal parameters [M, ...] of each member, from its identity alone."""
    members = []
    for identity in identities:
        generator = make_generator("simple CNN", *identity)
        members.append({name: torch.randn(shape, generator=generator) for name, shape in design.parameters()})
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


# phi(z), in place where its gradient follows from the result.
_Forward = Callable[[Tensor], Tensor]
_FORWARD: dict[str, _Forward] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "gelu": torch.nn.functional.gelu,
    "abs": torch.abs,
}


def _times_derivative(name: str, gradient: Tensor, before: Tensor | None, after: Tensor) -> Tensor:
    """Gradient times phi'(z), with z ``before`` the activation and phi(z) ``after`` it."""
    aten = torch.ops.aten
    result: Tensor
    if name == "relu":
        result = aten.threshold_backward(gradient, after, 0)
    elif name == "tanh":
        result = aten.tanh_backward(gradient, after)
    else:
        assert before is not None
        result = aten.gelu_backward(gradient, before) if name == "gelu" else gradient * before.sign()
    return result


class Ensemble:
    """Members with one design, each with its own parameters.

    Args:
        design: of every member.
        size: sites of the ring.
        parameters: [M, ...] by name, as :meth:`SimpleDesign.parameters` says; they are changed in place by :meth:`step`.
    """

    def __init__(self, design: SimpleDesign, size: int, parameters: Mapping[str, Tensor]) -> None:
        self.design = design
        self.size = size
        self.parameters = dict(parameters)
        device = self.parameters["beta"].device
        self._windows: list[Tensor | None] = []
        for read in windows(size, design):
            in_order = torch.equal(read.flatten(), torch.arange(read.numel()))
            # Windows that follow each other without overlap already lie in memory in this order.
            self._windows.append(None if in_order else read.to(device))

    def __len__(self) -> int:
        return len(self.parameters["beta"])

    @property
    def widest(self) -> int:
        """Numbers that the windows of the widest layer hold for one image of one member."""
        sizes = self.design.sizes(self.size)
        channels = [1, *[self.design.channels] * (self.design.depth - 1)]
        return max(size * self.design.filter_size * before for size, before in zip(sizes[1:], channels, strict=True))

    def select(self, members: Tensor) -> "Ensemble":
        """Some of the members, copied."""
        return Ensemble(self.design, self.size, {name: value[members] for name, value in self.parameters.items()})

    def member(self, index: int) -> dict[str, Tensor]:
        """Parameters of one member."""
        return {name: value[index] for name, value in self.parameters.items()}

    def _read(self, values: Tensor, layer: int) -> Tensor:
        """Windows [M, B * sites after, window * channels] of values [M, B, sites, channels]."""
        members, batch, sites, channels = values.shape
        read, size, stride = self._windows[layer], self.design.filter_size, self.design.stride
        if read is not None:
            # Channels lie together, and so do the windows of a padded ring: they are copied, not gathered.
            left = (size - 1) // 2
            padded = torch.cat([values[:, :, sites - left :], values, values[:, :, : size - 1 - left]], 2)
            rows = (len(read), size * channels)
            steps = (padded.stride(0), padded.stride(1), stride * channels, 1)
            values = padded.as_strided((members, batch, *rows), steps)
        return values.reshape(members, -1, size * channels)

    def _scale(self, inputs: Tensor) -> float:
        return 1 / math.sqrt(inputs.shape[2])

    def _layer(self, values: Tensor, layer: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Windows, what phi is applied to (where its gradient needs that) and phi of it, [M, B * sites after, ...]."""
        inputs, name = self._read(values, layer), self.design.activation
        weight = self.parameters[f"weights.{layer}"]
        before = torch.baddbmm(self.parameters[f"biases.{layer}"][:, None], inputs, weight, alpha=self._scale(inputs))
        keeps = name not in ("relu", "tanh")
        return inputs, before if keeps else None, _FORWARD[name](before)

    def layers(self, images: Tensor) -> list[Tensor]:
        """Representations f_1 ... f_K, each [M, B, sites, H], of images [M, B, sites]."""
        found, values = [], images[..., None]
        for layer in range(self.design.depth):
            values = self._layer(values, layer)[2].mul_(self.design.gain).unflatten(1, (images.shape[1], -1))
            found.append(values)
        return found

    def outputs(self, images: Tensor) -> Tensor:
        """f(x) [M, B] of images [M, B, sites]."""
        values = images[..., None]
        for layer in range(self.design.depth):
            values = self._layer(values, layer)[2].mul_(self.design.gain).unflatten(1, (images.shape[1], -1))
        return self._read_out(values.mean(2))

    def _read_out(self, pooled: Tensor) -> Tensor:
        outputs = torch.bmm(pooled, self.parameters["beta"][..., None])[..., 0] * self.design.readout
        return outputs + self.parameters["output_bias"][:, None]

    def step(self, images: Tensor, labels: Tensor, rate: Tensor, early_exit: bool = True) -> Tensor:
        """One step of gradient descent on the mean hinge loss max(0, 1 - y f(x)) of each member's own batch.

        The gradients are written out: with the loss of most images 0 most of the time, a step often ends after the forward pass,
        and weights change as their gradients are made.

        Args:
            images: [M, B, sites].
            labels: +1 or -1, [M, B].
            rate: learning rate of each member, [M], times the factor of the scaling.
            early_exit: whether a step ends after the forward pass if no image has a loss, so that nothing changes. To know that,
                it waits for the device; without it, zeros are subtracted.

        Returns:
            Loss of each member before the step, [M].
        """
        design, batch = self.design, images.shape[1]
        kept, values = [], images[..., None]
        for layer in range(design.depth):
            inputs, before, after = self._layer(values, layer)
            kept.append((inputs, before, after, values.shape))
            values = (after * design.gain).unflatten(1, (batch, -1))
        sites = values.shape[2]
        pooled = values.mean(2)
        hinge = (1 - labels * self._read_out(pooled)).clamp_(min=0)
        loss = hinge.mean(1)
        has_loss = hinge > 0
        if early_exit and not bool(has_loss.any()):
            return loss
        # Gradient of rate times loss by the output: the rates multiply all gradients that follow.
        output = (-labels).masked_fill_(~has_loss, 0) * (rate / batch)[:, None]
        beta = self.parameters["beta"]
        channel = (output[..., None] * beta[:, None]) * (design.readout / sites)
        self.parameters["output_bias"] -= output.sum(1)
        beta -= torch.bmm(output[:, None], pooled)[:, 0] * design.readout
        gradient = channel[:, :, None].expand(-1, -1, sites, -1).flatten(1, 2)
        for layer in reversed(range(design.depth)):
            inputs, before, after, shape = kept[layer]
            gradient = _times_derivative(design.activation, gradient, before, after)
            weight, factor = self.parameters[f"weights.{layer}"], self._scale(inputs) * design.gain
            below = None if layer == 0 else torch.bmm(gradient, weight.transpose(1, 2)).mul_(factor)
            weight.baddbmm_(inputs.transpose(1, 2), gradient, alpha=-factor)
            self.parameters[f"biases.{layer}"].sub_(gradient.sum(1), alpha=design.gain)
            if below is not None:
                gradient = self._unread(below, shape, layer)
        return loss

    def _unread(self, gradient: Tensor, shape: torch.Size, layer: int) -> Tensor:
        """Gradient [M, B * sites, channels] of what :meth:`_read` read, from that of the windows."""
        read = self._windows[layer]
        if read is None:
            return gradient.reshape(shape[0], -1, shape[3])
        by_site = gradient.reshape(*shape[:2], *read.shape, shape[3])
        found = gradient.new_zeros(shape)
        size, stride, sites = self.design.filter_size, self.design.stride, shape[2]
        for place in range(size):  # the same place of all windows, but for those that go round the ring
            start = (place - (size - 1) // 2) % sites
            whole = min(len(read), -(-(sites - start) // stride))
            # By add_: += on a part would also copy the sum onto itself.
            found[:, :, start : start + whole * stride : stride].add_(by_site[:, :, :whole, place])
            if whole < len(read):
                wrapped = found[:, :, (start + whole * stride) % sites :: stride][:, :, : len(read) - whole]
                wrapped.add_(by_site[:, :, whole:, place])
        return found.flatten(1, 2)

    def decay(self, share: Tensor) -> None:
        """Take ``share`` [M] off the weights of the layers; biases and the read-out stay."""
        for layer in range(self.design.depth):
            self.parameters[f"weights.{layer}"].mul_((1 - share)[:, None, None])
