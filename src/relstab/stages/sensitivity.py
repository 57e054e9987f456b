"""The stages that measure saved networks: D, G and R of every layer, as trained, with shuffled channels, and over training, and
of the output for many diffeomorphisms.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from torch import nn

from relstab.channel_shuffle import shuffle_channels
from relstab.devices import choose_device
from relstab.files.hdf5 import read_attributes
from relstab.files.network import NetworkKey, load_network, read_history
from relstab.files.probes import read_probes
from relstab.files.sensitivity import write_sensitivity
from relstab.probes import make_probes
from relstab.seeding import derive_seed, make_generator
from relstab.sensitivity import accumulate_sums
from relstab.stages.probes import first_test_images

__all__ = ["measure_network", "measure_over_training", "measure_shuffled", "measure_sweep"]


def _models(network: str | Path, weights: str, device: str) -> Iterator[tuple[str, nn.Module]]:
    for state, saved in (("init", "init"), ("trained", weights)):
        yield state, load_network(network, saved).to(choose_device(device))


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

    Args:
        path: of the HDF5 file of sensitivities; its measurements are "init" and "trained".
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
        for state, model in _models(network, weights, device):
            print(f"{state}: {len(images)} probes")
            store = file.activation_store(state, keep_activations)
            file.add(state, accumulate_sums(model, images, batch_size=batch_size, store=store))
            if store is not None and store.unmatched:
                patterns = " or ".join(map(repr, store.unmatched))
                print(f"no layer has a name that matches {patterns} (config.yaml: sensitivity.keep_activations)")


def measure_over_training(
    path: str | Path, network: str | Path, probes: str | Path, batch_size: int | None = None, device: str = "auto"
) -> None:
    """Measure the snapshots of a saved network, with its weights at initialization and after the last epoch.

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
            model = load_network(network, state).to(choose_device(device))
            scores = {name: history[name][epochs.index(epoch)] for name in ("test_error", "train_loss")} if epoch else {}
            file.add(str(epoch), accumulate_sums(model, images, batch_size=batch_size), scores)


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

    A shuffle follows from the run's seed, the network and the number of the shuffle alone, so that more shuffles leave the first
    ones as they are.

    Args:
        path: of the HDF5 file of sensitivities; its measurements are "init/0", "init/1", ..., "trained/0", ...
        network, probes, weights, batch_size, device: as in :func:`measure_network`.
        shuffles: how many.
        which: channels that are permuted, "input" or "both".
        seed: of the run.
    """
    if which not in ("input", "both"):
        raise ValueError(f"expected which to be 'input' or 'both', got {which!r}")
    images = read_probes(probes)
    identity = NetworkKey.from_attributes(read_attributes(network)).identity
    parameters = {"weights": weights, "shuffles": shuffles, "which": which, "config_seed": seed}
    with write_sensitivity(path, network, probes, parameters, str(choose_device(device))) as file:
        for state, model in _models(network, weights, device):
            for number in range(shuffles):
                print(f"{state}: shuffle {number + 1} of {shuffles}, {len(images)} probes")
                shuffled = shuffle_channels(model, which, derive_seed("shuffle", seed, *identity, number))
                file.add(f"{state}/{number}", accumulate_sums(shuffled, images, batch_size=batch_size))


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
        path: of the HDF5 file of sensitivities; its measurements are "init/0", "init/1", ..., "trained/0", ...
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
    models = dict(_models(network, weights, device))
    images, dataset = first_test_images(noisy_test, number)
    with write_sensitivity(path, network, noisy_test, parameters, str(choose_device(device))) as file:
        for place, (displacement, cutoff) in enumerate(sweep):
            print(f"displacement {displacement:g}, cutoff {cutoff}: {number} probes")
            probes = make_probes(images, displacement, cutoff, interpolation, make_generator("probes", dataset, seed))
            for state, model in models.items():
                sums = accumulate_sums(model, probes, layers=["input", "output"], batch_size=batch_size)
                file.add(f"{state}/{place}", sums, {"displacement": displacement, "cutoff": cutoff})
