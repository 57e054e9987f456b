"""The steps of an ensemble over an epoch; on a GPU they are one CUDA graph, so that a step costs one launch and no wait.

A graph repeats the same kernels on the same memory. What differs from step to step is therefore on the device: the position in
the epoch, the order of the pairs and the losses so far. The kernels and their order are those of eager steps, and so are the
weights.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from relstab.scale_detection.ensemble import Ensemble
from relstab.training.cuda_graph import capture, graphs_are_possible

__all__ = ["EnsembleSteps"]


class EnsembleSteps:
    """Steps of the members that are in training now; when some leave, the others need steps of their own.

    Args:
        ensemble: the members.
        images: training images [P, L].
        labels: +1 or -1, [P].
        batch_size: pairs per step; the last step of an epoch takes what is left.
        decays: whether weights decay after each step.
        graph: whether steps become a CUDA graph; by default where they run on a GPU.

    Attributes:
        total: losses of the epoch so far, summed over its images, [M].
    """

    def __init__(
        self, ensemble: Ensemble, images: Tensor, labels: Tensor, batch_size: int, decays: bool, graph: bool | None = None
    ) -> None:
        self.ensemble, self.images, self.labels = ensemble, images, labels
        self.batch_size, self.decays = batch_size, decays
        self.graph = graphs_are_possible(images.device) if graph is None else graph
        members, device = len(ensemble), images.device
        self.total, self.rates, self.share = (torch.zeros(members, device=device) for _ in range(3))
        self._order = torch.zeros(members, len(images), dtype=torch.int64, device=device)
        self._position = torch.zeros((), dtype=torch.int64, device=device)
        self._places = torch.arange(batch_size, device=device)
        self._loaded = False  # the first step loads the kernels, which a graph cannot
        self._replay: Callable[[], None] | None = None

    def begin(self, order: Tensor, position: int, total: Tensor, rates: Tensor, share: Tensor) -> None:
        """Start an epoch, or continue it.

        Args:
            order: of the pairs, for each member, [M, P].
            position: batches that are done.
            total: losses in them, [M].
            rates, share: learning rates and shares of the weights that a step takes off, [M].
        """
        self._order.copy_(order)
        self._position.fill_(position * self.batch_size)
        self.total.copy_(total)
        self.rates.copy_(rates)
        self.share.copy_(share)

    def step(self, position: int) -> None:
        """The step on the batch at ``position``, which follows the one before."""
        start = position * self.batch_size
        if not self.graph or start + self.batch_size > len(self.images):
            self._step_on(self._order[:, start : start + self.batch_size])
        elif not self._loaded:
            self._step_at_position()
            self._loaded = True
        else:
            if self._replay is None:
                self._replay = self._captured()
            self._replay()

    def _captured(self) -> Callable[[], None]:
        """The step at the position as a graph, or the eager step where it cannot be a graph."""
        try:
            return capture(self._step_at_position, [], self.images.device)
        except RuntimeError as error:
            print(f"simple CNNs are trained without a CUDA graph, which is slower (same weights): {error}", flush=True)
            return self._step_at_position

    def _step_at_position(self) -> None:
        """The step on the batch at the position on the device, which it moves on."""
        self._step_on(self._order[:, self._position + self._places])
        self._position += self.batch_size

    def _step_on(self, chosen: Tensor) -> None:
        """The step on chosen pairs, [M, B]."""
        loss = self.ensemble.step(self.images[chosen], self.labels[chosen], self.rates, early_exit=not self.images.is_cuda)
        self.total += loss * chosen.shape[1]
        if self.decays:
            self.ensemble.decay(self.share)
