"""The stage of the networks: train one, with checkpoints beside its file until it is saved."""

from pathlib import Path
from typing import TYPE_CHECKING

from relstab.files.checkpoints import checkpoints_of, mark_saved
from relstab.files.network import TrainedNetwork, save_network
from relstab.runs.devices import choose_device
from relstab.training.train import train_network

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from relstab.config import Training
    from relstab.files.dataset import Dataset

__all__ = ["train_and_save"]


def train_and_save(
    path: str | Path,
    architecture: str,
    dataset: "Dataset",
    test: "tuple[Tensor, Tensor]",
    recipe: "Training",
    sigma: float,
    seed: int,
    config_seed: int = 0,
    device: "str | torch.device" = "auto",
    checkpoint_minutes: float = 3.0,
    tensorboard: str | Path | None = None,
) -> TrainedNetwork:
    """Train a network with :func:`relstab.train_network` and write it to HDF5.

    Args:
        path: of the HDF5 file; checkpoints are in the folder of this name that ends in ``.checkpoints``; see
            :mod:`relstab.files.checkpoints`.
        architecture, dataset, test, recipe, sigma, seed, config_seed, device, checkpoint_minutes, tensorboard: of
            :func:`relstab.train_network`.
    """
    checkpoints = checkpoints_of(path)
    chosen = choose_device(str(device))
    network = train_network(
        architecture, dataset, test, recipe, sigma, seed, config_seed, chosen, checkpoints, checkpoint_minutes, tensorboard
    )
    save_network(path, network, config_seed, str(chosen))
    mark_saved(network.checkpoints)
    return network
