"""Training one network on one data set at one noise level (paper, appendix B).

Cross-entropy, SGD with momentum or Adam, weight decay on parameters with more than one dimension, a cosine schedule. The data set
lives on the device as uint8 and is normalised, augmented and made noisy there, a batch at a time.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from relstab.architectures import build_model
from relstab.batch_norm import estimate_batch_statistics
from relstab.datasets import Dataset, normalise
from relstab.noise import add_noise
from relstab.seeding import derive_seed, make_generator
from relstab.storage import open_hdf5, provenance, write_hdf5

if TYPE_CHECKING:
    from relstab.config import Training

__all__ = ["HISTORY", "TrainedNetwork", "choose_device", "load_network", "save_network", "train_network"]

HISTORY = ("epoch", "learning_rate", "train_loss", "test_error")
"""Columns of the training history: the epoch from 1, its last rate, mean loss over its batches, test error after it."""

STATES = ("init", "best", "last")

_ATTRIBUTES = ("dataset", "architecture", "noise", "seed", "image_shape", "classes", "chance_error", "test_images")

# Images on which the statistics of batch norm are estimated at initialization.
_CALIBRATION_IMAGES = 1000

State = dict[str, Tensor]


@dataclass
class TrainedNetwork:
    """A network before, during and after training.

    Attributes:
        dataset, architecture, noise, seed: which network it is, the keys of the tables.
        image_shape: channels, rows and columns of its images.
        classes: number of its outputs.
        recipe: with which it was trained.
        states: by name in :data:`STATES`: parameters and buffers at initialization (with the running statistics of batch norm
            estimated on training images), at the epoch of best test error, and after the last epoch.
        history: one row an epoch, with the columns of :data:`HISTORY`.
        chance_error: error of guessing the largest class of the test set.
        test_images: how many the test errors are over.
    """

    dataset: str
    architecture: str
    noise: float
    seed: int
    image_shape: tuple[int, int, int]
    classes: int
    recipe: "Training"
    chance_error: float
    test_images: int
    states: dict[str, State] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def choose_device(name: str) -> torch.device:
    """Device by its name in the config; "auto" is cuda where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {name!r}, and this machine has {torch.cuda.device_count()} CUDA devices (config.yaml: device)"
        )
    return device


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
        return torch.optim.Adam(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


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


def augment(images: Tensor, crop_padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crops out of zero padding and horizontal flips, one draw an image, as whole-batch indexing.

    Args:
        images: [N, C, n, n], of any dtype; zero is padded, so uint8 images are padded black before they are normalised.
        crop_padding: pixels on each side; 0 for no crops.
        flip: whether half of the images are mirrored.
        generator: on the CPU; the same draws on every device.
    """
    count, _, rows, cols = images.shape
    device = images.device
    row = torch.arange(rows, device=device).expand(count, -1)
    col = torch.arange(cols, device=device).expand(count, -1)
    if flip:
        mirrored = torch.randint(2, (count, 1), generator=generator).bool().to(device)
        col = torch.where(mirrored, col.flip(1), col)
    if crop_padding:
        images = functional.pad(images, [crop_padding] * 4)
        shift = torch.randint(2 * crop_padding + 1, (2, count, 1), generator=generator).to(device)
        row, col = row + shift[0], col + shift[1]
    if not flip and not crop_padding:
        return images
    image = torch.arange(count, device=device)[:, None, None]
    # Two advanced indices around the slice put the channels last.
    return images[image, :, row[:, :, None], col[:, None, :]].permute(0, 3, 1, 2)


def classification_error(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> float:
    """Share of images whose largest output is not their label; the network is left in evaluation mode."""
    model.eval()
    wrong = 0
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            outputs = model(images[start : start + batch_size])
            wrong += int((outputs.argmax(1) != labels[start : start + batch_size]).sum())
    return wrong / len(images)


def _copy_state(model: nn.Module) -> State:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _epoch_batches(
    images: Tensor, labels: Tensor, dataset: Dataset, recipe: "Training", sigma: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch in random order: normalised, augmented, with fresh noise of norm about ``sigma``."""
    order = torch.randperm(len(images), generator=generator).to(images.device)
    for start in range(0, len(order), recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        batch = augment(images[chosen], recipe.crop_padding, recipe.flip, generator)
        yield add_noise(normalise(batch, dataset), sigma, generator), labels[chosen]


def train_network(
    architecture: str,
    dataset: Dataset,
    test: tuple[Tensor, Tensor],
    recipe: "Training",
    sigma: float,
    seed: int,
    config_seed: int = 0,
    device: str = "auto",
) -> TrainedNetwork:
    """Train one network from a fresh initialization.

    Args:
        architecture: name in :data:`relstab.ARCHITECTURES`.
        dataset: prepared data set; its test images are not used here.
        test: noisy test images [N, C, n, n], normalised, and their labels [N].
        recipe: rate, epochs and so on, see :class:`relstab.config.Training`.
        sigma: norm of the noise that training images get afresh at every epoch.
        seed: which of the networks of this architecture and noise level.
        config_seed: seed of the whole run.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        FloatingPointError: the loss became NaN or infinite.
    """
    place = choose_device(device)
    identity = (config_seed, dataset.name, architecture, sigma, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("initialization", *identity))
        model = build_model(architecture, dataset.image_shape, dataset.classes, recipe.width)
        _initialise(model, recipe.initialization)
    model = model.to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.from_numpy(dataset.images["train"]).to(place)
    labels = torch.from_numpy(dataset.labels["train"]).to(place)
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
        states={"init": _copy_state(calibrated)},
    )

    optimizer = _optimizer(model, recipe)
    generator = make_generator("training", *identity)
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    step, lowest = 0, math.inf
    title = f"{architecture}, noise {sigma:g}, seed {seed}"
    print(f"{title}: {len(images)} images on {place}, {recipe}")
    # A bar on a terminal, a line an epoch in a log.
    with tqdm(total=recipe.epochs, desc=title, unit="epoch", disable=None) as progress:
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            total = torch.zeros((), device=place)
            rate = 0.0
            for batch, target in _epoch_batches(images, labels, dataset, recipe, sigma, generator):
                rate = learning_rate(step, steps_per_epoch, recipe)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                loss = functional.cross_entropy(model(batch.contiguous(memory_format=torch.channels_last)), target)
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(batch)
                step += 1
            train_loss = float(total) / len(images)
            if not math.isfinite(train_loss):
                raise FloatingPointError(
                    f"the training loss of {architecture} at noise {sigma:g}, seed {seed}, became {train_loss} in epoch {epoch} "
                    f"at learning rate {rate:.3g}: try a lower learning_rate or warmup_epochs (config: recipes.{architecture})"
                )
            error = classification_error(model, test_images, test_labels)
            network.history.append(dict(zip(HISTORY, (epoch, rate, train_loss, error), strict=True)))
            progress.update()
            progress.set_postfix(loss=f"{train_loss:.4f}", test_error=f"{error:.4f}")
            if progress.disable:
                print(f"epoch {epoch} of {recipe.epochs}: rate {rate:.3g}, loss {train_loss:.4f}, test error {error:.4f}")
            if error < lowest:
                lowest = error
                network.states["best"] = _copy_state(model)
    network.states["last"] = _copy_state(model)
    return network


def save_network(path: str | Path, network: TrainedNetwork, config_seed: int = 0, device: str = "cpu") -> None:
    """Write a trained network to HDF5: one group of arrays a state, the history, and what made it.

    Args:
        path: of the HDF5 file.
        network: from :func:`train_network`.
        config_seed: seed of the whole run.
        device: on which it was trained.
    """
    attributes = {
        **provenance({"recipe": network.recipe.model_dump(), "config_seed": config_seed}, device=device),
        **{key: getattr(network, key) for key in _ATTRIBUTES},
        "width": network.recipe.width,
        "parameters_in_order": list(network.states["last"]),
    }
    with write_hdf5(path, attributes) as file:
        for state, tensors in network.states.items():
            for name, tensor in tensors.items():
                file[f"{state}/{name}"] = tensor.numpy()
        for column in HISTORY:
            file[f"history/{column}"] = [row[column] for row in network.history]


def load_network(path: str | Path, state: str = "last") -> nn.Module:
    """Network out of a file of :func:`save_network`, on the CPU, in evaluation mode.

    Args:
        path: of the HDF5 file.
        state: "init", "best" or "last".
    """
    if state not in STATES:
        raise ValueError(f"state is {state!r}: one of {', '.join(map(repr, STATES))} is wanted")
    with open_hdf5(path) as file:
        attributes = file.attrs
        channels, rows, cols = (int(n) for n in attributes["image_shape"])
        model = build_model(
            str(attributes["architecture"]), (channels, rows, cols), int(attributes["classes"]), float(attributes["width"])
        )
        model.load_state_dict({name: torch.as_tensor(file[f"{state}/{name}"][()]) for name in model.state_dict()})
    return model.eval()
