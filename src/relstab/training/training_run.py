"""One training run, step by step: batches, steps, ends of epochs, and its state to and from a checkpoint."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relstab.diffeomorphism import deform
from relstab.files.dataset import Dataset, normalisation, normalise_with
from relstab.files.network import HISTORY, TrainedNetwork, copy_state
from relstab.noise import add_noise
from relstab.runs.devices import is_out_of_memory, largest_batch
from relstab.training.augmentation import crop_and_flip
from relstab.training.checkpoint import Checkpoint
from relstab.training.cuda_graph import GraphedStep, graphs_are_possible
from relstab.training.learning_rate import learning_rate

__all__ = ["Epoch", "TrainingRun", "classification_error", "snapshot_epochs"]


def snapshot_epochs(epochs: int, count: int) -> list[int]:
    """``count`` epochs, evenly spaced in their logarithm from 1 to ``epochs``; fewer where they round to the same."""
    return sorted({round(epoch) for epoch in np.geomspace(1, epochs, count)}) if count else []


def classification_error(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 500,
    between: Callable[[], None] = lambda: None,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Share of images whose largest output is not their label, or, of a network with one output, whose sign is not.

    The network is left in evaluation mode. The host waits for the device once, at the end.

    Args:
        model, images, labels, batch_size: the network, its images [N, C, n, n], their labels [N] and the images at a time.
        between: called after every batch.
        dtype: of products and convolutions, float32 or bfloat16.
    """
    model.eval()
    wrong = torch.zeros((), dtype=torch.int64, device=labels.device)
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        for start in range(0, len(images), batch_size):
            outputs = model(images[start : start + batch_size])
            classes = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
            wrong += (classes != labels[start : start + batch_size]).sum()
            between()
    return int(wrong) / len(images)


@dataclass
class Epoch:
    """How far an epoch has come.

    Attributes:
        number: from 1.
        order: of the training images in the present pass over them, [N].
        position: steps that are done.
        total: of the losses over the images that are done, on the device.
        batch: steps of the present pass that are done. An epoch is one pass, unless the recipe counts it in steps.
        images: that are done, with repetitions.
    """

    number: int
    order: Tensor
    position: int
    total: Tensor
    batch: int
    images: int = 0


@dataclass
class TrainingRun:
    """One training run at one moment, with everything that a checkpoint must hold.

    Attributes:
        network: what is kept of it: states and history so far.
        dataset: prepared data set.
        sigma: norm of the noise on training images, which is drawn again at every epoch.
        device: where it runs.
        dtype: of products and convolutions, float32 or bfloat16.
        model, optimizer: as they are now.
        generator: of orders, crops, flips, diffeomorphisms and noise, on the device.
        images, labels: the training set on the device, uint8 and int64.
        test_images, test_labels: normalised and noisy, on the device.
        tensorboard: folder for the event file; None for none.
        lowest: test error so far.
        epoch: how far it has come.
        forward: the model, compiled if the recipe asks for it.
        rate: the learning rate of the present step on a GPU, in memory that a CUDA graph reads, float32; None on a CPU.
        graphed: the step as a CUDA graph; None where there are none.
    """

    network: TrainedNetwork
    dataset: Dataset
    sigma: float
    device: torch.device
    dtype: torch.dtype
    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    tensorboard: str | Path | None = None
    lowest: float = math.inf
    epoch: Epoch = field(init=False)
    forward: Callable[[Tensor], Tensor] = field(init=False)
    rate: Tensor | None = field(init=False)
    graphed: GraphedStep | None = field(init=False)

    def __post_init__(self) -> None:
        self.recipe = self.network.recipe
        self.forward = torch.compile(self.model, dynamic=False) if self.recipe.compile else self.model
        self.normalisation = normalisation(self.dataset, self.device)
        self.steps_per_pass = self._steps(len(self.images))
        self.steps_per_epoch = self.recipe.steps_per_epoch or self._steps(self.dataset.available_images or len(self.images))
        self.rate = torch.zeros((), device=self.device) if self.device.type == "cuda" else None
        self.graphed = GraphedStep(self.recipe.batch_size, self.device) if graphs_are_possible(self.device) else None
        # As after a pass: the first step begins the next one.
        self.epoch = Epoch(0, self.labels[:0], 0, torch.zeros((), device=self.device), self.steps_per_pass)
        self.begin_epoch(1)

    def _steps(self, images: int) -> int:
        """Steps of one pass over ``images``. A single image that is left over is skipped: batch norm cannot be trained on it."""
        size = self.recipe.batch_size
        return max(1, math.ceil(images / size) - (images % size == 1))

    @property
    def title(self) -> str:
        return str(self.network.key)

    def begin_epoch(self, number: int) -> None:
        self.epoch = Epoch(number, self.epoch.order, 0, self.epoch.total.zero_(), self.epoch.batch)

    @property
    def step_number(self) -> int:
        return (self.epoch.number - 1) * self.steps_per_epoch + self.epoch.position

    @property
    def where(self) -> str:
        return f"epoch {self.epoch.number}, batch {self.epoch.position} of {self.steps_per_epoch}"

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images, augmented, normalised, with fresh noise of norm about sigma, and their labels."""
        recipe = self.recipe
        batch = crop_and_flip(self.images[chosen], recipe.crop_padding, recipe.flip, self.generator)
        batch = normalise_with(batch.contiguous(memory_format=torch.channels_last), *self.normalisation)
        if recipe.diffeo_displacement:
            batch = deform(batch, recipe.diffeo_displacement, recipe.diffeo_cutoff, generator=self.generator)
        batch = add_noise(batch, self.sigma, self.generator)
        return batch.contiguous(memory_format=torch.channels_last), self.labels[chosen]

    def loss(self, batch: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            outputs = self.forward(batch)
            if self.recipe.loss == "hinge":
                return (1 - (2 * target - 1) * outputs[:, 0]).clamp(min=0).mean()
            return functional.cross_entropy(outputs, target)

    def step(self) -> None:
        """One step on the next batch of the pass, or on the first of a new pass, in a new order."""
        epoch, size = self.epoch, self.recipe.batch_size
        if epoch.batch == self.steps_per_pass:
            epoch.order = torch.randperm(len(self.images), generator=self.generator, device=self.device)
            epoch.batch = 0
        chosen = epoch.order[epoch.batch * size : (epoch.batch + 1) * size]
        rate: float | Tensor = learning_rate(self.step_number, self.steps_per_epoch, self.recipe)
        if self.rate is not None:
            rate = self.rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.graphed is None:
            self.update(chosen)
        else:
            self.graphed.update(self, chosen)
        epoch.images += len(chosen)
        epoch.batch += 1
        epoch.position += 1

    def update(self, chosen: Tensor) -> None:
        """Change the weights by one step on the images ``chosen``: all the work of a step on its device, and none on the host."""
        batch, target = self.batch(chosen)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, target)
        loss.backward()
        self.optimizer.step()
        self.epoch.total += loss.detach() * len(batch)

    def changing(self) -> list[Tensor]:
        """All tensors that :meth:`update` changes: weights, buffers, the optimizer's moments, the total of the losses."""
        moments = [value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        return [*self.model.parameters(), *self.model.buffers(), *moments, self.epoch.total]

    def checked_step(self) -> None:
        """A step, with one clear sentence where the GPU has not enough memory for it, or torch cannot compile the network."""
        try:
            self.step()
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                self._explain(error)
                raise
            # The rest is done outside: while the exception lives, so do the tensors of its frames.
        size = self.recipe.batch_size
        self.graphed = None  # with its memory

        def attempt(count: int) -> None:
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(*self.batch(self.epoch.order[:count])).backward()
            self.optimizer.step()  # the moments need memory, too; the run ends here anyway

        fits = largest_batch(attempt, size)
        advice = f"{fits} images do" if fits else "not even two images do"
        raise MemoryError(
            f"batches of {size} images do not fit into the memory of {self.device}, {advice} "
            f"(config: recipes.{self.network.key.architecture}.batch_size; where jobs share a GPU, jobs_per_gpu)"
        )

    def _explain(self, error: RuntimeError) -> None:
        """Raise the error in one sentence if it is one of torch.compile, such as a missing compiler."""
        if not self.recipe.compile:
            return
        from torch._dynamo.exc import TorchDynamoException

        if isinstance(error, TorchDynamoException):
            why = " ".join(str(error).partition("\n\n")[0].split())
            architecture = self.network.key.architecture
            raise RuntimeError(
                f"torch.compile fails on {architecture} ({why}): set recipes.{architecture}.compile: false"
            ) from error

    def check_loss(self) -> float:
        """Mean loss of the epoch so far; an error where it is not finite."""
        mean = float(self.epoch.total) / self.epoch.images
        if math.isfinite(mean):
            return mean
        rate = learning_rate(self.step_number - 1, self.steps_per_epoch, self.recipe)
        key = self.network.key
        raise FloatingPointError(
            f"the training loss of {key.architecture} at noise {key.noise:g}, seed {key.seed}, became {mean} in "
            f"epoch {self.epoch.number} at learning rate {rate:.3g}: try a lower learning_rate, more warmup_epochs or "
            f"initialization: he (config: recipes.{key.architecture})"
        )

    def test_error(self, between: Callable[[], None], decisive: bool) -> float:
        """Test error of the weights as they are.

        On a GPU that trains in bfloat16, errors are measured in bfloat16. Errors of weights that are kept are always measured in
        float32.

        Args:
            between: called after every batch.
            decisive: whether the weights are kept whatever their error is.
        """
        # Without gradients, four times as many images fit as in a step.
        size = min(500, 4 * self.recipe.batch_size)

        def error(dtype: torch.dtype) -> float:
            return classification_error(self.model, self.test_images, self.test_labels, size, between, dtype)

        if self.device.type != "cpu" and self.dtype == torch.bfloat16 and not decisive:
            rounded = error(torch.bfloat16)
            if rounded >= self.lowest:
                return rounded
        return error(torch.float32)

    def end_epoch(self, between: Callable[[], None]) -> dict[str, float]:
        """Test error, and the weights that are to be kept."""
        number = self.epoch.number
        train_loss = self.check_loss()
        rate = learning_rate(self.step_number - 1, self.steps_per_epoch, self.recipe)
        last = number == self.recipe.epochs
        snapshot = number in snapshot_epochs(self.recipe.epochs, self.recipe.snapshots)
        error = self.test_error(between, decisive=last or snapshot)
        row = dict(zip(HISTORY, (number, rate, train_loss, error), strict=True))
        self.network.history.append(row)
        if error < self.lowest:
            self.lowest = error
            self.network.states["best"] = copy_state(self.model)
        if last:
            self.network.states["last"] = copy_state(self.model)
        elif snapshot:
            self.network.states[f"epoch{number}"] = copy_state(self.model)
        return row

    def checkpoint(self) -> Checkpoint:
        """All that the rest of the training depends on."""
        self.check_loss()
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for state, kept in self.network.states.items():
            tensors |= {f"states/{state}/{name}": value for name, value in kept.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in values.items() if value is not None}
        tensors |= {"order": self.epoch.order, "total": self.epoch.total, "generators/batches": self.generator.get_state()}
        tensors["generators/cpu"] = torch.get_rng_state()  # of dropout
        if self.device.type == "cuda":
            tensors["generators/cuda"] = torch.cuda.get_rng_state(self.device)
        values = {
            "epoch": self.epoch.number,
            "position": self.epoch.position,
            "batch": self.epoch.batch,
            "images": self.epoch.images,
            "lowest": self.lowest if math.isfinite(self.lowest) else None,
            "history": self.network.history,
        }
        return Checkpoint(tensors, values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""

        def under(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}/"
            return {name.removeprefix(start): value for name, value in checkpoint.tensors.items() if name.startswith(start)}

        self.model.load_state_dict(under("model"))
        self.network.states = {}
        for name, value in under("states").items():
            state, _, entry = name.partition("/")
            self.network.states.setdefault(state, {})[entry] = value
        # The order of parameters and buffers is part of a state, and a file has none.
        order = list(self.model.state_dict())
        self.network.states = {state: {name: kept[name] for name in order} for state, kept in self.network.states.items()}
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for name, value in under("optimizer").items():
            index, _, entry = name.partition("/")
            parameter = parameters[int(index)]
            # The fused optimizers go through memory as it lies: moments must lie there as their parameters do.
            laid_out = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            moments.setdefault(int(index), {})[entry] = laid_out
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        generators = under("generators")
        self.generator.set_state(generators["batches"])
        torch.set_rng_state(generators["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"], self.device)
        values = checkpoint.values
        self.network.history = values["history"]
        self.lowest = math.inf if values["lowest"] is None else values["lowest"]
        permutation = checkpoint.tensors["order"].to(self.device)
        total = self.epoch.total.copy_(checkpoint.tensors["total"])
        self.epoch = Epoch(values["epoch"], permutation, values["position"], total, values["batch"], values["images"])
