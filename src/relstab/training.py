"""Training one network on one data set at one noise level (paper, appendix B).

Cross-entropy, SGD with momentum or Adam, weight decay on parameters with more than one dimension, a cosine schedule. The data set
lives on the device as uint8 and is augmented, normalised and made noisy there, a batch at a time; images and weights are in
channels_last, and products and convolutions in bfloat16 where the hardware has it. Checkpoints hold all that the rest of the
training depends on, so that one that was killed ends, on a CPU, with the weights of one that was not, to the bit.
"""

import contextlib
import copy
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from relstab.allocation import kept_memory
from relstab.architectures import build_model
from relstab.augmentation import crop_and_flip
from relstab.batch_norm import estimate_batch_statistics
from relstab.checkpoint import Checkpoint, Checkpoints
from relstab.datasets import Dataset, normalise
from relstab.devices import choose_device, choose_precision, largest_batch, repeatable
from relstab.diffeomorphism import deform
from relstab.noise import add_noise
from relstab.seeding import derive_seed, make_generator
from relstab.trained_network import HISTORY, TrainedNetwork, copy_state, save_network

if TYPE_CHECKING:
    from relstab.config import Training

__all__ = ["learning_rate", "snapshot_epochs", "train_and_save", "train_network"]

# Images on which the statistics of batch norm are estimated at initialization.
_CALIBRATION_IMAGES = 1000

# Changes when a checkpoint means something else to this code.
_CHECKPOINT_FORMAT = 1


def _initialise(model: nn.Module, initialization: str) -> None:
    """He's normal initialization where it is asked for; torch's own stands already."""
    if initialization != "he":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _optimizer(model: nn.Module, recipe: "Training") -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)


def learning_rate(step: int, steps_per_epoch: int, recipe: "Training") -> float:
    """Rate of one step: linear warm-up, then cosine to 0 over ``schedule_fraction`` of the epochs, or constant.

    Args:
        step: from 0.
        steps_per_epoch: batches an epoch.
        recipe: schedule, rate and number of epochs.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    length = recipe.schedule_fraction * recipe.epochs * steps_per_epoch - warmup
    progress = min((step - warmup) / length, 1.0) if length > 0 else 1.0
    return recipe.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def snapshot_epochs(epochs: int, count: int) -> list[int]:
    """``count`` epochs, evenly spaced in their logarithm from 1 to ``epochs``; fewer where they round to the same."""
    return sorted({round(epoch) for epoch in np.geomspace(1, epochs, count)}) if count else []


def classification_error(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500, between: Callable[[], None] = lambda: None
) -> float:
    """Share of images whose largest output is not their label; the network is left in evaluation mode.

    ``between`` is called after every batch.
    """
    model.eval()
    wrong = 0
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            outputs = model(images[start : start + batch_size])
            wrong += int((outputs.argmax(1) != labels[start : start + batch_size]).sum())
            between()
    return wrong / len(images)


@dataclass
class _Epoch:
    """How far an epoch has come.

    Attributes:
        number: from 1.
        order: of the training images, [N].
        position: batches that are done.
        total: of the losses over the images that are done, on the device.
    """

    number: int
    order: Tensor
    position: int
    total: Tensor


@dataclass
class _Run:
    """One training, with everything that a checkpoint must hold."""

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
    lowest: float = math.inf
    epoch: _Epoch = field(init=False)
    forward: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.recipe = self.network.recipe
        self.forward = torch.compile(self.model) if self.recipe.compile else self.model
        # A batch norm cannot be trained on one image: where one is left over, it is left out of the epoch.
        size = self.recipe.batch_size
        self.steps_per_epoch = max(1, math.ceil(len(self.images) / size) - (len(self.images) % size == 1))
        self.begin_epoch(1)

    @property
    def title(self) -> str:
        network = self.network
        return f"{network.architecture}, noise {network.noise:g}, seed {network.seed}"

    def begin_epoch(self, number: int) -> None:
        order = torch.randperm(len(self.images), generator=self.generator, device=self.device)
        self.epoch = _Epoch(number, order, 0, torch.zeros((), device=self.device))

    @property
    def step_number(self) -> int:
        return (self.epoch.number - 1) * self.steps_per_epoch + self.epoch.position

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images, augmented, normalised, with fresh noise of norm about sigma, and their labels."""
        recipe = self.recipe
        batch = crop_and_flip(self.images[chosen], recipe.crop_padding, recipe.flip, self.generator)
        batch = normalise(batch.contiguous(memory_format=torch.channels_last), self.dataset)
        if recipe.diffeo_displacement:
            batch = deform(batch, recipe.diffeo_displacement, recipe.diffeo_cutoff, generator=self.generator)
        batch = add_noise(batch, self.sigma, self.generator)
        return batch.contiguous(memory_format=torch.channels_last), self.labels[chosen]

    def loss(self, batch: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return functional.cross_entropy(self.forward(batch), target)

    def step(self) -> None:
        """One step on the next batch of the epoch."""
        epoch, size = self.epoch, self.recipe.batch_size
        batch, target = self.batch(epoch.order[epoch.position * size : (epoch.position + 1) * size])
        rate = learning_rate(self.step_number, self.steps_per_epoch, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, target)
        loss.backward()
        self.optimizer.step()
        epoch.total += loss.detach() * len(batch)
        epoch.position += 1

    def checked_step(self) -> None:
        """A step, with one clear sentence where the GPU has not enough memory for it."""
        try:
            self.step()
            return
        except torch.OutOfMemoryError:
            pass  # handled outside: while the exception lives, so do the tensors of its frames
        size = self.recipe.batch_size

        def attempt(count: int) -> None:
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(*self.batch(self.epoch.order[:count])).backward()

        fits = largest_batch(attempt, size)
        advice = f"{fits} images do" if fits else "not even one image does"
        raise MemoryError(
            f"{size} images a step do not fit into the memory of {self.device}, {advice} "
            f"(config: recipes.{self.network.architecture}.batch_size; or fewer jobs_per_gpu)"
        )

    def check_loss(self) -> float:
        """Mean loss of the epoch so far; an error where it is not finite."""
        seen = min(self.epoch.position * self.recipe.batch_size, len(self.images))
        mean = float(self.epoch.total) / seen
        if math.isfinite(mean):
            return mean
        rate = learning_rate(self.step_number - 1, self.steps_per_epoch, self.recipe)
        architecture = self.network.architecture
        raise FloatingPointError(
            f"the training loss of {architecture} at noise {self.network.noise:g}, seed {self.network.seed}, became {mean} in "
            f"epoch {self.epoch.number} at learning rate {rate:.3g}: try a lower learning_rate, more warmup_epochs or "
            f"initialization: he (config: recipes.{architecture})"
        )

    def end_epoch(self, between: Callable[[], None]) -> dict[str, float]:
        """Test error, and the weights that are to be kept."""
        number = self.epoch.number
        train_loss = self.check_loss()
        rate = learning_rate(self.step_number - 1, self.steps_per_epoch, self.recipe)
        error = classification_error(self.model, self.test_images, self.test_labels, between=between)
        row = dict(zip(HISTORY, (number, rate, train_loss, error), strict=True))
        self.network.history.append(row)
        last = number == self.recipe.epochs
        if error < self.lowest:
            self.lowest = error
            self.network.states["best"] = copy_state(self.model)
        if last:
            self.network.states["last"] = copy_state(self.model)
        elif number in snapshot_epochs(self.recipe.epochs, self.recipe.snapshots):
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
            "lowest": self.lowest if math.isfinite(self.lowest) else None,
            "history": self.network.history,
        }
        return Checkpoint(tensors, values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""

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
        # A training that goes on on another kind of device cannot have the same draws: it takes those of its own generators.
        if self.generator.get_state().shape == generators["batches"].shape:
            self.generator.set_state(generators["batches"])
        torch.set_rng_state(generators["cpu"])
        if self.device.type == "cuda" and "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], self.device)
        values = checkpoint.values
        self.network.history = values["history"]
        self.lowest = math.inf if values["lowest"] is None else values["lowest"]
        tensors = checkpoint.tensors
        self.epoch = _Epoch(
            values["epoch"], tensors["order"].to(self.device), values["position"], tensors["total"].to(self.device)
        )


class _Keeper:
    """Saves a training every few minutes, and before it is stopped by a signal."""

    def __init__(self, run: _Run, checkpoints: Checkpoints, seconds: float) -> None:
        self.run, self.checkpoints, self.seconds = run, checkpoints, seconds
        self.last = time.monotonic()
        self.signal: int | None = None

    def resume(self) -> None:
        found = self.checkpoints.load()
        if found is not None:
            self.run.restore(found)
            epoch = self.run.epoch
            print(f"continued from the checkpoint in epoch {epoch.number}, batch {epoch.position} of {self.run.steps_per_epoch}")

    def look(self) -> None:
        """Called where a training may be saved: after every step, and between the batches of an evaluation."""
        if self.signal is None and time.monotonic() - self.last < self.seconds:
            return
        checkpoint = self.run.checkpoint()
        try:
            path = self.checkpoints.save(self.run.step_number, checkpoint)
        except OSError as error:
            # The training itself can still end well, and the checkpoint before is as it was.
            print(f"no checkpoint could be written in {self.checkpoints.folder} ({error}): training goes on", flush=True)
        else:
            if self.signal is not None:
                print(f"stopped by {signal.Signals(self.signal).name}: {path} will be continued from", flush=True)
        self.last = time.monotonic()
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, SIGTERM and SIGINT stop the training at the next step; only the main thread can listen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _frame: FrameType | None) -> None:
            self.signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def train_network(
    architecture: str,
    dataset: Dataset,
    test: tuple[Tensor, Tensor],
    recipe: "Training",
    sigma: float,
    seed: int,
    config_seed: int = 0,
    device: str | torch.device = "auto",
    checkpoints: str | Path | None = None,
    checkpoint_minutes: float = 3.0,
) -> TrainedNetwork:
    """Train one network from a fresh initialization, or from the checkpoint that an earlier call left.

    Args:
        architecture: name in :data:`relstab.ARCHITECTURES`.
        dataset: prepared data set; its test images are not used here.
        test: noisy test images [N, C, n, n], normalised, and their labels [N].
        recipe: rate, epochs and so on, see :class:`relstab.config.Training`.
        sigma: norm of the noise that training images get afresh at every epoch.
        seed: which of the networks of this architecture and noise level.
        config_seed: seed of the whole run.
        device: "auto", "cpu", "cuda" or "cuda:N".
        checkpoints: folder for the checkpoints of this training, to be removed by the caller when the network is saved; None for
            none. With it, SIGTERM and Ctrl-C save before they stop the training.
        checkpoint_minutes: between two checkpoints.

    Raises:
        FloatingPointError: the loss became NaN or infinite.
        MemoryError: a batch does not fit into the memory of the GPU; the message says which size does.
    """
    place = choose_device(str(device))
    dtype = choose_precision(recipe.precision, place)
    identity = (config_seed, dataset.name, architecture, sigma, seed)
    with (
        kept_memory() if place.type == "cpu" else contextlib.nullcontext(),
        repeatable(place),
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
    ):
        torch.manual_seed(derive_seed("initialization", *identity))
        model = build_model(architecture, dataset.image_shape, dataset.classes, recipe.width, recipe.activation, recipe.pooling)
        _initialise(model, recipe.initialization)
        model = model.to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images, labels = (torch.from_numpy(part["train"]).to(place) for part in (dataset.images, dataset.labels))
        test_images, test_labels = (part.to(place) for part in test)
        calibrated = copy.deepcopy(model)
        first = normalise(images[:_CALIBRATION_IMAGES], dataset)
        estimate_batch_statistics(calibrated, add_noise(first, sigma, make_generator("calibration", *identity)))
        network = TrainedNetwork(
            dataset=dataset.name,
            architecture=architecture,
            noise=sigma,
            seed=seed,
            image_shape=dataset.image_shape,
            classes=dataset.classes,
            recipe=recipe,
            chance_error=1 - int(test_labels.bincount().max()) / len(test_labels),
            test_images=len(test_labels),
            precision=str(dtype).removeprefix("torch."),
            states={"init": copy_state(calibrated)},
        )
        run = _Run(
            network=network,
            dataset=dataset,
            sigma=sigma,
            device=place,
            dtype=dtype,
            model=model,
            optimizer=_optimizer(model, recipe),
            generator=torch.Generator(place).manual_seed(derive_seed("training", *identity)),
            images=images,
            labels=labels,
            test_images=test_images.contiguous(memory_format=torch.channels_last),
            test_labels=test_labels,
        )
        print(f"{run.title}: {len(images)} images on {place} in {network.precision}, {recipe}")
        if checkpoints is None:
            _train(run, lambda: None)
        else:
            everything = {
                "format": _CHECKPOINT_FORMAT,
                "network": dict(zip(("config_seed", "dataset", "architecture", "noise", "seed"), identity, strict=True)),
                "images": dataset.digest,
                "recipe": recipe.model_dump(),
            }
            keeper = _Keeper(run, Checkpoints(checkpoints, everything), 60 * checkpoint_minutes)
            with keeper.listening():
                keeper.resume()
                _train(run, keeper.look)
    return network


def train_and_save(
    path: str | Path,
    architecture: str,
    dataset: Dataset,
    test: tuple[Tensor, Tensor],
    recipe: "Training",
    sigma: float,
    seed: int,
    config_seed: int = 0,
    device: str | torch.device = "auto",
    checkpoint_minutes: float = 3.0,
) -> TrainedNetwork:
    """:func:`train_network` into a file, with its checkpoints beside it until the file is there.

    Args:
        path: of the HDF5 file; checkpoints are in the folder of this name that ends in ``.checkpoints``.
        architecture, dataset, test, recipe, sigma, seed, config_seed, device, checkpoint_minutes: as there.
    """
    checkpoints = Path(path).with_suffix(".checkpoints")
    place = choose_device(str(device))
    network = train_network(architecture, dataset, test, recipe, sigma, seed, config_seed, place, checkpoints, checkpoint_minutes)
    save_network(path, network, config_seed, str(place))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return network


def _train(run: _Run, look: Callable[[], None]) -> None:
    """Train to the end from where the run is; ``look`` is called where it may be saved."""
    epochs = run.recipe.epochs
    # A bar on a terminal, a line an epoch in a log.
    with tqdm(total=epochs, initial=run.epoch.number - 1, desc=run.title, unit="epoch", disable=None) as progress:
        while True:
            run.model.train()
            while run.epoch.position < run.steps_per_epoch:
                run.checked_step()
                look()
            row = run.end_epoch(look)
            progress.update()
            progress.set_postfix(loss=f"{row['train_loss']:.4f}", test_error=f"{row['test_error']:.4f}")
            if progress.disable:
                print("epoch {epoch} of {0}: rate {learning_rate:.3g}, loss {train_loss:.4f}, "
                      "test error {test_error:.4f}".format(epochs, **row), flush=True)  # fmt: skip
            if run.epoch.number == epochs:
                return
            run.begin_epoch(run.epoch.number + 1)
