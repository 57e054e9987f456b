"""The stages that measure saved networks: D, G and R of every layer, as trained, with shuffled channels, and over training, and
of the output for many diffeomorphisms.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from relstab.batch_norm import estimate_batch_statistics, has_batch_norm
from relstab.channel_shuffle import shuffle_channels
from relstab.files.hdf5 import read_attributes
from relstab.files.network import NetworkKey, load_network, read_history
from relstab.files.probes import read_probes
from relstab.files.sensitivity import write_sensitivity
from relstab.probes import make_probes
from relstab.recorder import departure
from relstab.runs.devices import choose_device
from relstab.runs.seeding import derive_seed, make_generator
from relstab.sensitivity import accumulate_sums
from relstab.stages.probes import choose_test_images

__all__ = ["measure_network", "measure_over_training", "measure_shuffled", "measure_sweep"]

# Clean probes per batch whose statistics recalibrate a shuffled network.
_CALIBRATION_BATCH = 50

BatchNorm = Literal["running", "per_version"]


def _states(weights: str) -> list[tuple[str, str, BatchNorm]]:
    """States that are measured, the saved weights of each, and the statistics of its batch norm."""
    return [("init", "init", "per_version"), ("init_frozen", "init", "running"), ("trained", weights, "running")]


def check_function(model: nn.Module, images: Tensor, network: str | Path) -> None:
    """Refuse a network that is random in evaluation mode; warn if the output for an image depends on the rest of its batch."""
    how = departure(model, images)
    if how == "random":
        raise ValueError(
            f"expected a network that gives the same output for the same images, got {network}, which draws random numbers in "
            f"evaluation mode: pass training=self.training to functional.dropout and the like"
        )
    if how == "company":
        warnings.warn(f"the output of {network} for an image depends on the other images of its batch", stacklevel=2)


def _load(network: str | Path, saved: str, device: str, images: Tensor) -> nn.Module:
    model = load_network(network, saved).to(choose_device(device))
    check_function(model, images, network)
    return model


def measure_network(
    path: str | Path,
    network: str | Path,
    probes: str | Path,
    weights: str = "last",
    keep_activations: Sequence[str] = (),
    batch_size: int | None = None,
    device: str = "auto",
) -> None:
    """Measure a saved network at initialization and after training.

    Its states are "init", where batch norm normalises each version of the probes by its own statistics, as the reference does;
    "init_frozen", where it has one set of statistics, of training images; and "trained". Without batch norm the first two are the
    same measurement.

    Args:
        path: of the HDF5 file of sensitivities; its measurements are "init", "init_frozen" and "trained".
        network: file of :func:`relstab.save_network`.
        probes: file of :func:`relstab.files.probes.write_probes`.
        weights: which weights are the trained ones, "last" or "best".
        keep_activations: shell patterns of the names of layers whose representations are kept.
        batch_size: images at a time, as in :func:`relstab.measure_sensitivity`.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """
    images = read_probes(probes)
    parameters = {"weights": weights, "keep_activations": list(keep_activations)}
    with write_sensitivity(path, network, probes, parameters, str(choose_device(device))) as file:
        for state, saved, batch_norm in _states(weights):
            model = _load(network, saved, device, images.images)
            if state == "init_frozen" and not has_batch_norm(model):
                file.add_link(state, "init")
                continue
            print(f"{state}: {len(images)} probes")
            store = file.activation_store(state, keep_activations)
            file.add(state, accumulate_sums(model, images, None, batch_size, store, batch_norm))
            if store is not None and store.unmatched:
                patterns = " or ".join(map(repr, store.unmatched))
                print(f"no layer has a name that matches {patterns} (config.yaml: sensitivity.keep_activations)")


def measure_over_training(
    path: str | Path, network: str | Path, probes: str | Path, batch_size: int | None = None, device: str = "auto"
) -> None:
    """Measure the snapshots of a saved network, with its weights at initialization and after the last epoch.

    As in :func:`measure_network`, batch norm normalises each version by its own statistics at initialization, epoch 0.

    Args:
        path: of the HDF5 file of sensitivities; its measurements are the epochs "0", "3", ..., "250".
        network, probes, batch_size, device: as in :func:`measure_network`.
    """
    images = read_probes(probes)
    attributes, history = read_history(network)
    epochs = [int(epoch) for epoch in history["epoch"]]
    snapshots = [int(epoch) for epoch in attributes["snapshots"]]
    states = {0: "init", **{epoch: f"epoch{epoch}" for epoch in snapshots}, epochs[-1]: "last"}
    with write_sensitivity(path, network, probes, {"snapshots": snapshots}, str(choose_device(device))) as file:
        for epoch, state in states.items():
            print(f"epoch {epoch}: {len(images)} probes")
            model = _load(network, state, device, images.images)
            batch_norm: BatchNorm = "running" if epoch else "per_version"
            scores = {name: history[name][epochs.index(epoch)] for name in ("test_error", "train_loss")} if epoch else {}
            file.add(str(epoch), accumulate_sums(model, images, batch_size=batch_size, batch_norm=batch_norm), scores)


def measure_shuffled(
    path: str | Path,
    network: str | Path,
    probes: str | Path,
    shuffles: int,
    which: Literal["input", "both"] = "input",
    weights: str = "last",
    batch_size: int | None = None,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Measure a saved network with shuffled channels, ``shuffles`` times, at initialization and after training.

    A trained network with batch norm is measured twice: with "stale" statistics, those of the network before the shuffle, as in
    the reference, and with "recalibrated" ones, of the clean probes x in the shuffled network. At initialization each version has
    its own statistics, of the shuffled network. There, and without batch norm, the two are the same measurement.

    A shuffle follows from the run's seed, the network and the number of the shuffle alone, so that more shuffles leave the first
    ones as they are.

    Args:
        path: of the HDF5 file of sensitivities; its measurements are "init/0/stale", "init/0/recalibrated", ...,
            "trained/0/stale", ...
        network, probes, weights, batch_size, device: as in :func:`measure_network`.
        shuffles: how many.
        which: channels that are permuted, "input" or "both".
        seed: of the run.
    """
    images = read_probes(probes)
    place = choose_device(device)
    identity = NetworkKey.from_attributes(read_attributes(network)).identity
    parameters = {"weights": weights, "shuffles": shuffles, "which": which, "config_seed": seed}
    states: list[tuple[str, str, BatchNorm]] = [("init", "init", "per_version"), ("trained", weights, "running")]
    with write_sensitivity(path, network, probes, parameters, str(place)) as file:
        for state, saved, batch_norm in states:
            model = _load(network, saved, device, images.images)
            recalibrates = state == "trained" and has_batch_norm(model)
            for number in range(shuffles):
                print(f"{state}: shuffle {number + 1} of {shuffles}, {len(images)} probes")
                shuffled = shuffle_channels(model, which, derive_seed("shuffle", seed, *identity, number))
                group = f"{state}/{number}"
                file.add(f"{group}/stale", accumulate_sums(shuffled, images, batch_size=batch_size, batch_norm=batch_norm))
                if recalibrates:
                    estimate_batch_statistics(shuffled, images.images.to(place), _CALIBRATION_BATCH)
                    file.add(f"{group}/recalibrated", accumulate_sums(shuffled, images, batch_size=batch_size))
                else:
                    file.add_link(f"{group}/recalibrated", f"{group}/stale")


def measure_sweep(
    path: str | Path,
    network: str | Path,
    noisy_test: str | Path,
    number: int,
    sweep: Sequence[tuple[float, int]],
    interpolation: str = "bilinear",
    weights: str = "last",
    batch_size: int | None = None,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Measure the input and the output of a saved network for many displacements and cutoffs.

    The probes of one displacement and cutoff are those of :func:`relstab.stages.probes.perturb_test_images`: all have the same
    images and random numbers, so that D, G and R are smooth in the displacement.

    Args:
        path: of the HDF5 file of sensitivities; its measurements are "init/0", "init/1", ..., "init_frozen/0", ...,
            "trained/0", ...
        network, weights, batch_size, device: as in :func:`measure_network`.
        noisy_test: file of :func:`relstab.stages.datasets.write_noisy_test`.
        number: P, the number of probes.
        sweep: displacements and cutoffs.
        interpolation: of the diffeomorphisms.
        seed: of the run.
    """
    parameters = {
        "weights": weights,
        "probes": number,
        "sweep": [list(pair) for pair in sweep],
        "interpolation": interpolation,
        "config_seed": seed,
    }
    place = choose_device(device)
    images, _, dataset = choose_test_images(noisy_test, number, seed)
    models = [(state, _load(network, saved, device, images), batch_norm) for state, saved, batch_norm in _states(weights)]
    with write_sensitivity(path, network, noisy_test, parameters, str(place), "noisy test images") as file:
        for index, (displacement, cutoff) in enumerate(sweep):
            print(f"displacement {displacement:g}, cutoff {cutoff}: {number} probes")
            probes = make_probes(images, displacement, cutoff, interpolation, make_generator("probes", dataset, seed))
            for state, model, batch_norm in models:
                if state == "init_frozen" and not has_batch_norm(model):
                    file.add_link(f"{state}/{index}", f"init/{index}")
                    continue
                sums = accumulate_sums(model, probes, ["input", "output"], batch_size, batch_norm=batch_norm)
                file.add(f"{state}/{index}", sums, {"displacement": displacement, "cutoff": cutoff})
