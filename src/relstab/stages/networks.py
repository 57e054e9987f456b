"""The stage of the networks: train one or several, with checkpoints beside their files until they are saved."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relstab.files.checkpoints import checkpoints_of, mark_saved
from relstab.files.dataset import read_noisy_test
from relstab.files.hdf5 import planned_as
from relstab.files.network import TrainedNetwork, save_network
from relstab.files.trained_early import PlannedNetwork, early_path, planned_like, take_early
from relstab.runs.claim import claim
from relstab.runs.devices import choose_device
from relstab.training.together import train_networks
from relstab.training.train import train_network

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from relstab.config import Training
    from relstab.files.dataset import Dataset

__all__ = ["its_turn", "train_and_save"]

# Seconds between two looks at a network that another job trains.
_INTERVAL = 1.0


@contextlib.contextmanager
def its_turn(network: PlannedNetwork, results: str | Path, count: int) -> Iterator[list[PlannedNetwork] | None]:
    """Wait until this job is to train its network, or another job has trained it.

    Args:
        network: of this job.
        results: folder of the results.
        count: networks that a job trains at the same time.

    Yields:
        Networks of other jobs that this job trains with its own; None where the network is at its place already.
    """
    waiting = False
    while not take_early(network):
        if count == 1:
            yield []
            return
        planned: list[PlannedNetwork] = []

        def others(planned: list[PlannedNetwork] = planned) -> list[str]:
            planned += planned_like(network, results)
            return [each.path for each in planned]

        with claim(network.path, others, count) as claimed:
            # Another job may have ended between the two looks.
            if claimed and not network.is_trained_early():
                yield [each for each in planned if each.path in claimed]
                return
        if not claimed:
            if not waiting:
                print("another job trains this network: waiting for it", flush=True)
                waiting = True
            time.sleep(_INTERVAL)
    yield None


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
    others: Sequence[PlannedNetwork] = (),
) -> TrainedNetwork:
    """Train a network with :func:`relstab.train_network` and write it to HDF5.

    Args:
        path: of the HDF5 file; checkpoints are in the folder of this name that ends in ``.checkpoints``; see
            :mod:`relstab.files.checkpoints`.
        architecture, dataset, test, recipe, sigma, seed, config_seed, device, checkpoint_minutes, tensorboard: of
            :func:`relstab.train_network`.
        others: networks of other jobs, of the same architecture, data set and recipe, that are trained at the same time and saved
            where their jobs find them. An error of one of them is left to its job.
    """
    chosen = choose_device(str(device))
    common: dict[str, Any] = {
        "architecture": architecture,
        "dataset": dataset,
        "recipe": recipe,
        "config_seed": config_seed,
        "checkpoint_minutes": checkpoint_minutes,
    }
    tests = {file: read_noisy_test(file) for file in {each.test for each in others}}
    differing: list[tuple[Any, ...]] = [(test, sigma, seed, path, tensorboard)]
    differing += [(tests[each.test], each.sigma, each.seed, each.path, tensorboard and each.events) for each in others]
    networks = [
        {**common, "test": images, "sigma": noise, "seed": number, "checkpoints": checkpoints_of(file), "tensorboard": events}
        for images, noise, number, file, events in differing
    ]
    own: list[TrainedNetwork] = []

    def save(network: TrainedNetwork) -> None:
        for each in others:
            if (each.sigma, each.seed) == (network.key.noise, network.key.seed):
                with planned_as(each.plan):
                    save_network(early_path(each.path), network, config_seed, str(chosen))
                break
        else:
            save_network(path, network, config_seed, str(chosen))
            own.append(network)
        mark_saved(network.checkpoints)

    if not others:
        save(train_network(**networks[0], device=chosen))
        return own[0]
    try:
        train_networks(networks, chosen, save)
    except Exception as error:
        if own:
            print(f"a network of another job failed, and that job will report it: {error}", flush=True)
        elif isinstance(error, MemoryError):
            raise MemoryError(f"{error}; this job trains {len(networks)} networks (config.yaml: networks_per_job)") from None
        else:
            raise
    return own[0]
