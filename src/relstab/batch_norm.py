"""Statistics of batch norm at initialization: one set for all images, or one set per version of the probes."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from relstab.activations import evaluating
from relstab.runs.devices import repeatable

__all__ = ["VersionNorms", "estimate_batch_statistics", "has_batch_norm"]


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any module of a network is a batch norm."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def estimate_batch_statistics(model: nn.Module, images: Tensor, batch_size: int = 250) -> None:
    """Set the running mean and variance of every batch norm to those of ``images``, in place.

    A network that was never trained has running mean 0 and variance 1, which are not statistics of its activations. Here the
    images go through it once with batch norm in training mode, and the statistics of the batches are averaged with equal
    weights. Afterwards the network is one function of an image and its perturbed versions. (The reference implementation
    normalises each version by its own statistics instead, see :class:`VersionNorms`.)

    Args:
        model: any module; a network without batch norm stays as it is.
        images: [N, ...], unperturbed, normalised as the network expects them.
        batch_size: images per batch; the last, smaller batch is skipped if there are others.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    if len(images) < 2:
        raise ValueError(f"expected at least 2 images to estimate statistics of, got {len(images)}")
    momenta = [norm.momentum for norm in norms]
    with evaluating(model), repeatable(images.device):  # dropout stays off
        try:
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = None  # the plain average over batches
            for start in range(0, max(len(images) - len(images) % batch_size, 1), batch_size):
                model(images[start : start + batch_size])
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


class _Moments:
    """Mean and variance of every channel, merged from batches in float64 (Chan, Golub and LeVeque 1979)."""

    def __init__(self, values: Tensor) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(values.shape[1], dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add a batch [N, channels, ...]."""
        exact = values if values.dtype in (torch.float32, torch.float64) else values.float()
        variance, mean = (moment.cpu().double() for moment in torch.var_mean(exact, [0, *range(2, values.ndim)], correction=0))
        count = values.numel() // values.shape[1]
        total = self._count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._squares = self._squares + variance * count + shift.square() * (self._count * count / total)
        self._count = total

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance, the squares divided by the number of entries."""
        return self._mean.to(like), (self._squares / self._count).to(like)


class _UnknownStatistics(BaseException):
    """The statistics of a batch norm are known only after the last batch."""


class VersionNorms:
    """Batch norms that normalise each version of the images by the statistics of that version.

    The reference implementation measures an untrained network in three separate passes without running statistics: f(x),
    f(tau x) and f(x + eta) are each normalised by mean and variance of their own P images. As in its training mode the variance
    is the biased one, sum (x - mean)^2 / N over the N entries of a channel; running statistics would hold N / (N - 1) times it.

    The statistics of a layer depend on those of the layers before. If all images fit into one batch, one pass gives them all, as
    training mode does. Otherwise each layer takes one pass over the batches, up to this layer: the memory is that of one batch,
    for any P, and the time for K batch norms that of about K / 2 passes.

    The network's own statistics are back after each ``with`` block; modes and weights never change.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        self._calls: Counter[str] = Counter()  # within a forward pass
        self._versions: list[dict[tuple[str, int], tuple[Tensor, Tensor]]] = []
        self._active: list[dict[tuple[str, int], tuple[Tensor, Tensor]]] = []  # one per part of a batch
        self._moments: dict[tuple[str, int], _Moments] | None = None  # while statistics are estimated
        self._one_batch = False

    def estimate(self, batches: Callable[[], Iterable[Tensor]], one_batch: bool) -> None:
        """Estimate the statistics of the next version.

        Args:
            batches: returns the images of this version, batch by batch; called once per pass.
            one_batch: whether it is a single batch.
        """
        known: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._active, self._one_batch = [known], one_batch
        with self._replaced_forward():
            while True:
                self._moments = {}
                for batch in batches():
                    with contextlib.suppress(_UnknownStatistics):
                        self._model(batch)
                if one_batch or not self._moments:
                    break
                known |= {key: moments.statistics(self._like(key[0])) for key, moments in self._moments.items()}
        self._moments = None
        self._versions.append(known)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, batches [versions * B, ...] are normalised part by part, in the order of :meth:`estimate`."""
        self._active = self._versions
        with self._replaced_forward():
            yield

    @contextlib.contextmanager
    def _replaced_forward(self) -> Iterator[None]:
        before = {name: norm.__dict__.get("forward") for name, norm in self._norms.items()}
        handle = self._model.register_forward_pre_hook(lambda _module, _args: self._calls.clear())
        try:
            for name, norm in self._norms.items():
                norm.__dict__["forward"] = self._forward_of(name, norm.forward)
            yield
        finally:
            handle.remove()
            for name, norm in self._norms.items():
                if before[name] is None:
                    del norm.__dict__["forward"]
                else:
                    norm.__dict__["forward"] = before[name]

    def _forward_of(self, name: str, original: Callable[..., Any]) -> Callable[[Tensor], Any]:
        def forward(values: Tensor) -> Any:
            key = (name, self._calls[name])
            self._calls[name] += 1
            if self._moments is not None and key not in self._active[0]:
                moments = self._moments.setdefault(key, _Moments(values))
                moments.add(values)
                if not self._one_batch:
                    raise _UnknownStatistics
                self._active[0][key] = moments.statistics(self._like(name))
            if len(values) % len(self._active) or any(key not in known for known in self._active):
                raise ValueError(
                    f"expected batch norm {name!r} to be called alike for every batch, with the images along the first axis, "
                    f"got shape {tuple(values.shape)} in call {key[1] + 1}; measure with batch_norm='running'"
                )
            parts = values.chunk(len(self._active))
            outputs = [self._normalise(name, original, part, known[key]) for part, known in zip(parts, self._active, strict=True)]
            return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

        return forward

    def _normalise(self, name: str, original: Callable[..., Any], values: Tensor, statistics: tuple[Tensor, Tensor]) -> Any:
        norm = self._norms[name]
        before = norm.running_mean, norm.running_var
        try:
            norm.running_mean, norm.running_var = statistics
            return original(values)
        finally:
            norm.running_mean, norm.running_var = before

    def _like(self, name: str) -> Tensor:
        """A tensor of the dtype and on the device of the statistics of a batch norm."""
        norm = self._norms[name]
        tensors = (norm.running_mean, norm.weight, *self._model.parameters(), *self._model.buffers())
        return next((tensor for tensor in tensors if tensor is not None), torch.zeros(()))
