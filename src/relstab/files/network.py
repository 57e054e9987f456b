"""The file of a network: its weights at initialization, at snapshots, at best and at the end, and its training history."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relstab.architectures import ARCHITECTURES, TIMM, architecture_source, build_model
from relstab.files.hdf5 import open_hdf5, provenance, read_attributes, write_hdf5
from relstab.filter_spectra import has_spectrum

if TYPE_CHECKING:
    import h5py
    from torch import Tensor, nn

    from relstab.config import Training

__all__ = [
    "HISTORY",
    "IMAGENET",
    "KEYS",
    "NetworkKey",
    "State",
    "TrainedNetwork",
    "check_finite",
    "copy_state",
    "in_file_names",
    "load_network",
    "noise_level",
    "out_of_file_names",
    "read_filters",
    "read_history",
    "save_network",
    "save_pretrained",
]

IMAGENET = "imagenet"
"""Data set of the pretrained networks of torchvision and timm in files and tables."""


def in_file_names(architecture: str) -> str:
    """Name of an architecture in file names, "timm-convnext_atto" for "timm:convnext_atto": some file systems have no colon."""
    return architecture.replace(":", "-")


def out_of_file_names(name: str) -> str:
    """Name of an architecture from its name in file names; no architecture has a hyphen in its name."""
    return name.replace("-", ":")


def noise_level(noise: float | str) -> float:
    """The canonical number of a noise level, that of its 12 digits in file names, so that levels can be compared."""
    return float(f"{float(noise):.12g}") + 0.0  # -0 is 0


@dataclass(frozen=True)
class NetworkKey:
    """Identity of one network of a run: key columns of tables, attributes of files, and names of files.

    Attributes:
        dataset: name of its data set.
        architecture: its name in :data:`relstab.ARCHITECTURES`, in torchvision, or "timm:" and that in timm.
        noise: sigma, the norm of the noise on its training images.
        seed: number of the network among those of its architecture and noise level, from 0.
        training_images: size of its training set where that is an axis of the run; None where all networks have the same
            one, which then is in no file name, attribute, table or seed.
    """

    dataset: str
    architecture: str
    noise: float
    seed: int
    training_images: int | None = None

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> "NetworkKey":
        """Key out of the attributes of a file."""
        images = attributes.get("training_images")
        return cls(
            str(attributes["dataset"]),
            str(attributes["architecture"]),
            noise_level(attributes["noise"]),
            int(attributes["seed"]),
            None if images is None else int(images),
        )

    def as_dict(self) -> dict[str, Any]:
        """By column: attributes of a file, or keys of a table's row."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def path(self) -> str:
        """File name without its ending: "mnist5k/lenet/noise0.01/seed3", "mnist5k/lenet/noise0.01_images64/seed3"."""
        subset = "" if self.training_images is None else f"_images{self.training_images}"
        return f"{self.dataset}/{in_file_names(self.architecture)}/noise{self.noise:.12g}{subset}/seed{self.seed}"

    @property
    def identity(self) -> tuple[str | float | int, ...]:
        """Parts of :func:`relstab.runs.seeding.derive_seed` for random numbers of this network, besides the seed of the run."""
        return tuple(self.as_dict().values())

    def __str__(self) -> str:
        subset = "" if self.training_images is None else f", {self.training_images} images"
        return f"{self.architecture}, noise {self.noise:g}{subset}, seed {self.seed}"


KEYS = ["dataset", "architecture", "noise", "seed"]
"""Key columns of tables over networks; ``training_images`` is one more where it is an axis."""

HISTORY = ("epoch", "learning_rate", "train_loss", "test_error")
"""Columns of the training history: the epoch from 1, its last learning rate, mean loss over its batches, test error after it."""

State = dict[str, "Tensor"]

_ATTRIBUTES = ("image_shape", "classes", "chance_error", "test_images", "precision", "snapshots")


@dataclass
class TrainedNetwork:
    """A network before, during and after training.

    Attributes:
        key: which network it is.
        image_shape: channels, rows and columns of its images.
        classes: number of its outputs.
        recipe: of its training.
        chance_error: error of guessing the largest class of the test set.
        test_images: number of images behind the test errors.
        precision: of products and convolutions in training, "float32" or "bfloat16".
        states: parameters and buffers: "init", at initialization (with the running statistics of batch norm estimated on training
            images); "best", at the epoch of best test error; "last", after the last epoch; "epoch3", a snapshot after epoch 3.
        history: one row per epoch, with the columns of :data:`HISTORY`.
        checkpoints: folder of its checkpoints, which can go once the network is saved; None without checkpoints.
    """

    key: NetworkKey
    image_shape: tuple[int, int, int]
    classes: int
    recipe: "Training"
    chance_error: float
    test_images: int
    precision: str
    states: dict[str, State] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    checkpoints: Path | None = None

    @property
    def snapshots(self) -> list[int]:
        """Epochs after which the weights were kept, in increasing order, without the last epoch."""
        return sorted(int(state.removeprefix("epoch")) for state in self.states if state.startswith("epoch"))


def copy_state(model: "nn.Module") -> State:
    """Copy of the parameters and buffers of a network, on the CPU."""
    import torch

    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()}


def _write_states(file: "h5py.File", states: Mapping[str, State]) -> None:
    for state, tensors in states.items():
        for name, tensor in tensors.items():
            file[f"{state}/{name}"] = tensor.numpy()


def check_finite(states: Mapping[str, Mapping[str, "Tensor"]], name: str, key: str) -> None:
    """Refuse weights that are not finite: the last step may have diverged, and its loss is that of the weights before it.

    Args:
        states: parameters by state and name.
        name: of the network, in words.
        key: of the config, its learning rate.

    Raises:
        FloatingPointError: a weight is NaN or infinite.
    """
    for state, tensors in states.items():
        for parameter, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise FloatingPointError(
                    f"expected finite weights after the training of {name}, got {parameter} with NaN or infinity (state "
                    f"{state}): lower the learning rate (config.yaml: {key})"
                )


def save_network(path: str | Path, network: TrainedNetwork, config_seed: int = 0, device: str = "cpu") -> None:
    """Write a trained network to HDF5: one group of arrays per state, the history, and the provenance.

    Args:
        path: of the HDF5 file.
        network: from :func:`relstab.train_network`.
        config_seed: of the whole run.
        device: on which it was trained.

    Raises:
        FloatingPointError: a weight is NaN or infinite.
    """
    check_finite(network.states, str(network.key), f"recipes.{network.key.architecture}.learning_rate")
    own = architecture_source(network.key.architecture)
    parameters = {"recipe": network.recipe.model_dump(), "config_seed": config_seed, **({"own": own} if own else {})}
    attributes = {
        **provenance(parameters, device=device),
        **network.key.as_dict(),
        **{name: getattr(network, name) for name in _ATTRIBUTES},
        "width": network.recipe.width,
        "activation": network.recipe.activation or "",
        "pooling": network.recipe.pooling or "",
        "parameters_in_order": list(network.states["last"]),
    }
    with write_hdf5(path, attributes, "network") as file:
        _write_states(file, network.states)
        for column in HISTORY:
            file[f"history/{column}"] = [row[column] for row in network.history]


def save_pretrained(
    path: str | Path,
    key: NetworkKey,
    states: Mapping[str, State],
    arguments: Mapping[str, Any],
    parameters: Mapping[str, Any],
    device: str,
) -> None:
    """Write a pretrained network of torchvision or timm to HDF5, for :func:`load_network`.

    Args:
        path: of the HDF5 file.
        key: which network it is; its architecture is a name of
            :func:`relstab.architectures.imagenet_networks.build_imagenet_network`.
        states: "init" and "last"; the file also holds "last" under the name "best".
        arguments: of its constructor.
        parameters: everything that the states depend on besides the name and the arguments.
        device: on which they were computed.
    """
    builder = "timm" if key.architecture.startswith(TIMM) else "torchvision"
    attributes = {
        **provenance(parameters, device=device),
        **key.as_dict(),
        "snapshots": [],
        "builder": builder,
        "builder_arguments": json.dumps(arguments),
        f"{builder}_version": importlib.import_module(builder).__version__,
        "parameters_in_order": list(states["last"]),
    }
    with write_hdf5(path, attributes, "network") as file:
        _write_states(file, states)
        file["best"] = file["last"]  # a second name of the same arrays, not a copy


def read_filters(path: str | Path, state: str) -> tuple[NetworkKey, dict[str, NDArray[np.float32]]]:
    """Key of a network, and the filters [out, in, F, F] of its convolutions with a spectrum, by layer in the network's order."""
    with open_hdf5(path, "network") as file:
        weights = file[state]
        # HDF5 lists names alphabetically; the network's order is an attribute.
        names = [name for name in read_attributes(path)["parameters_in_order"] if name.endswith(".weight")]
        filters = {name.removesuffix(".weight"): weights[name][:] for name in names if has_spectrum(weights[name].shape)}
        return NetworkKey.from_attributes(file.attrs), filters


def read_history(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Attributes of a network's file, and the columns of its training history, one entry per epoch."""
    with open_hdf5(path, "network") as file:
        return dict(file.attrs), {column: file[f"history/{column}"][:] for column in HISTORY}


def _build(attributes: Mapping[str, Any]) -> "nn.Module":
    """Network of a file, with its weights not yet read."""
    name = str(attributes["architecture"])
    if attributes.get("builder") in ("torchvision", "timm"):
        # Imported here, because it takes a second and few networks need it.
        from relstab.architectures.imagenet_networks import build_imagenet_network

        return build_imagenet_network(name, json.loads(attributes["builder_arguments"]))
    channels, rows, cols = (int(n) for n in attributes["image_shape"])
    own = json.loads(attributes["parameters"]).get("own")
    if own and name in ARCHITECTURES and architecture_source(name).get("source") != own["source"]:
        raise ValueError(
            f"the file of the builder of {name}, {ARCHITECTURES[name].builder or 'relstab'}, has changed since the network was "
            f"trained: train it again, or restore the file"
        )
    return build_model(
        name,
        (channels, rows, cols),
        int(attributes["classes"]),
        float(attributes["width"]),
        attributes["activation"] or None,
        attributes["pooling"] or None,
    )


def load_network(path: str | Path, state: str = "last") -> "nn.Module":
    """Network of a file of :func:`save_network` or :func:`save_pretrained`, on the CPU, in evaluation mode.

    Args:
        path: of the HDF5 file.
        state: "init", "best", "last", or one of its snapshots, "epoch3".
    """
    import torch

    with open_hdf5(path, "network") as file:
        attributes = file.attrs
        states = ["init", "best", "last", *(f"epoch{epoch}" for epoch in attributes["snapshots"])]
        if state not in states:
            raise ValueError(f"expected one of the states {', '.join(map(repr, states))} of {path}, got {state!r}")
        model = _build(attributes)
        # The state dict of the network itself holds the versions of its layers; some do not load without them.
        weights = model.state_dict()
        for name in weights:
            weights[name] = torch.as_tensor(file[f"{state}/{name}"][()])
        model.load_state_dict(weights)
    return model.eval()
