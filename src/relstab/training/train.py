"""Training one network on one data set at one noise level (paper, appendix B).

Cross-entropy, SGD with momentum or Adam, weight decay on parameters with more than one dimension, a cosine schedule. The data set
lives on the device as uint8 and is augmented, normalised and made noisy there, a batch at a time; images and weights are in
channels_last, and products and convolutions in bfloat16 where the hardware has it. Checkpoints hold all that the rest of the
training run depends on: on a CPU, a run that was killed and continued ends with the weights of one that was not, bit for bit.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from relstab.architectures import ARCHITECTURES, architecture_source, build_model
from relstab.batch_norm import estimate_batch_statistics
from relstab.files.dataset import Dataset, normalise
from relstab.files.network import NetworkKey, TrainedNetwork, copy_state
from relstab.noise import add_noise
from relstab.runs.allocation import kept_memory
from relstab.runs.devices import choose_device, choose_precision, fits, repeatable
from relstab.runs.seeding import derive_seed, make_generator
from relstab.training.checkpoint import Checkpoints, digest
from relstab.training.checkpointer import Checkpointer
from relstab.training.tensorboard import event_file
from relstab.training.training_run import TrainingRun

if TYPE_CHECKING:
    from relstab.config import Training

__all__ = ["prepare", "steps", "train_network"]

# Images on which the statistics of batch norm are estimated at initialization.
_CALIBRATION_IMAGES = 1000

_FEWER_IMAGES = "fewer or smaller images (config.yaml: data.train_images, data.test_images, data.imagefolder), or device: cpu"

# Changes when the meaning of a checkpoint changes.
_CHECKPOINT_FORMAT = 2


def _initialise(model: nn.Module, initialization: str) -> None:
    """Initialise as He et al., if requested; torch's own initialization is already in place."""
    if initialization != "he":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _precision(architecture: str, name: str, device: torch.device) -> torch.dtype:
    """Dtype of products and convolutions by its name in the recipe.

    "auto" is float32 on a GPU for networks whose launches take longer than their kernels: a cast to bfloat16 is one more launch.
    """
    if name == "auto" and device.type == "cuda" and ARCHITECTURES[architecture].launch_bound:
        return torch.float32
    return choose_precision(name, device)


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
    tensorboard: str | Path | None = None,
) -> TrainedNetwork:
    """Train one network from a fresh initialization, or from the checkpoint that an earlier call left.

    Args:
        architecture: name in :data:`relstab.ARCHITECTURES`.
        dataset: prepared data set; its test images are not used here.
        test: noisy test images [N, C, n, n], normalised, and their labels [N].
        recipe: learning rate, epochs and so on, see :class:`relstab.config.Training`.
        sigma: norm of the noise on training images, which is drawn again at every epoch.
        seed: which of the networks of this architecture and noise level.
        config_seed: seed of the whole run.
        device: "auto", "cpu", "cuda" or "cuda:N".
        checkpoints: folder for checkpoints; None for none. This training run uses a folder in it, named after all that the run
            depends on. The caller removes that folder (attribute ``checkpoints`` of the network) when the network is saved.
            SIGTERM and Ctrl-C then save before they stop the training run.
        checkpoint_minutes: between two checkpoints.
        tensorboard: folder for the event file of this network, see :func:`relstab.training.tensorboard.event_file`.

    Raises:
        FloatingPointError: the loss became NaN or infinite.
        MemoryError: the data set or a batch does not fit into the memory of the GPU; the message says which size does.
    """
    place = choose_device(str(device))
    with (
        kept_memory(place),
        repeatable(place),
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
    ):
        run, checkpointer = prepare(
            place, architecture, dataset, test, recipe, sigma, seed, config_seed, checkpoints, checkpoint_minutes, tensorboard
        )
        if checkpointer is None:
            _train(run, lambda: None)
        else:
            with checkpointer.listening():
                checkpointer.resume()
                _train(run, checkpointer.maybe_save)
    return run.network


def prepare(
    place: torch.device,
    architecture: str,
    dataset: Dataset,
    test: tuple[Tensor, Tensor],
    recipe: "Training",
    sigma: float,
    seed: int,
    config_seed: int = 0,
    checkpoints: str | Path | None = None,
    checkpoint_minutes: float = 3.0,
    tensorboard: str | Path | None = None,
) -> tuple[TrainingRun, Checkpointer | None]:
    """A training run before its first step, and its checkpointer, if there is a folder for checkpoints.

    Seeds torch's own generators. The arguments are those of :func:`train_network`, on the device ``place``.
    """
    outputs = dataset.classes
    if recipe.loss == "hinge":
        if outputs != 2:
            raise ValueError(
                f"expected two classes with loss 'hinge', or loss 'cross_entropy', got the {outputs} classes of {dataset.name} "
                f"(config.yaml: training.loss)"
            )
        outputs = 1
    dtype = _precision(architecture, recipe.precision, place)
    key = NetworkKey(dataset.name, architecture, sigma, seed, dataset.training_images)
    identity = (config_seed, *key.identity)
    torch.manual_seed(derive_seed("initialization", *identity))
    model = build_model(architecture, dataset.image_shape, outputs, recipe.width, recipe.activation, recipe.pooling)
    _initialise(model, recipe.initialization)
    model = model.to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    host = [*(torch.from_numpy(part["train"]) for part in (dataset.images, dataset.labels)), *test]
    size = sum(part.nbytes for part in host) / 2**30
    with fits(f"the images of {dataset.name} ({size:.1f} GiB)", place, _FEWER_IMAGES):
        images, labels, test_images, test_labels = (part.to(place) for part in host)
    calibrated = copy.deepcopy(model)
    first = normalise(images[:_CALIBRATION_IMAGES], dataset)
    estimate_batch_statistics(calibrated, add_noise(first, sigma, make_generator("calibration", *identity)))
    network = TrainedNetwork(
        key=key,
        image_shape=dataset.image_shape,
        classes=outputs,
        recipe=recipe,
        chance_error=1 - int(test_labels.bincount().max()) / len(test_labels),
        test_images=len(test_labels),
        precision=str(dtype).removeprefix("torch."),
        states={"init": copy_state(calibrated)},
    )
    run = TrainingRun(
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
        tensorboard=tensorboard,
    )
    print(f"{run.title}: {len(images)} images on {place} in {network.precision}, {recipe}")
    if checkpoints is None:
        return run, None
    everything = {
        "format": _CHECKPOINT_FORMAT,
        "network": {"config_seed": config_seed, **key.as_dict()},
        "images": digest(images, labels),
        "test_images": digest(*test),
        "recipe": recipe.model_dump(),
        **architecture_source(architecture),
        # Rounding in another order gives another network after some epochs.
        "precision": network.precision,
        "threads": torch.get_num_threads() if place.type == "cpu" else place.type,
    }
    checkpointer = Checkpointer(run, Checkpoints(checkpoints, everything), 60 * checkpoint_minutes)
    network.checkpoints = checkpointer.checkpoints.folder
    return run, checkpointer


def _train(run: TrainingRun, maybe_save: Callable[[], None]) -> None:
    """Train to the end from where the run is; ``maybe_save`` is called where it may be saved."""
    for _ in steps(run, maybe_save):
        pass


def steps(run: TrainingRun, maybe_save: Callable[[], None]) -> Iterator[None]:
    """The steps of :func:`_train`, one at a time, so that several training runs can take turns."""
    epochs = run.recipe.epochs
    # A bar on a terminal, a line per epoch in a log.
    with (
        tqdm(total=epochs, initial=run.epoch.number - 1, desc=run.title, unit="epoch", disable=None) as progress,
        event_file(run.tensorboard, run.network.history) as add_events,
    ):
        while True:
            run.model.train()
            while run.epoch.position < run.steps_per_epoch:
                run.checked_step()
                maybe_save()
                yield
            row = run.end_epoch(maybe_save)
            add_events(row)
            progress.update()
            progress.set_postfix(loss=f"{row['train_loss']:.4f}", test_error=f"{row['test_error']:.4f}")
            if progress.disable:
                print("{1}: epoch {epoch} of {0}: rate {learning_rate:.3g}, loss {train_loss:.4f}, "
                      "test error {test_error:.4f}".format(epochs, run.title, **row), flush=True)  # fmt: skip
            if run.epoch.number == epochs:
                return
            run.begin_epoch(run.epoch.number + 1)
