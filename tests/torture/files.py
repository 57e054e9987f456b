"""Each kind of file of a run, broken in every way that is quick to try, and read as a job reads it."""

import contextlib
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import torch

from relstab.architectures import build_model
from relstab.config import Training
from relstab.files.dataset import read_dataset, read_noisy_test
from relstab.files.ensemble import read_rows
from relstab.files.hdf5 import planned_as
from relstab.files.network import NetworkKey, TrainedNetwork, copy_state, load_network, read_history, save_network
from relstab.files.plan import check_input, plan_of, record
from relstab.files.probes import read_probes
from relstab.files.sensitivity import read_sensitivity
from relstab.files.spectrum import read_spectra
from relstab.stages.datasets import prepare_dataset, write_noisy_test
from relstab.stages.probes import perturb_test_images
from relstab.stages.scale_detection import measure_homogeneous
from relstab.stages.sensitivity import measure_network, measure_shuffled
from relstab.stages.spectra import analyse_filters
from relstab.stages.tables import sensitivity_table, spectrum_table
from relstab.training.checkpoint import Checkpoint, Checkpoints

from torture.count import Count, damaged

__all__ = ["break_checkpoints", "break_files", "break_tables", "make_results", "published"]

Reader = Callable[[Path], object]
READERS: dict[str, Reader] = {
    "datasets/mnist5k.h5": read_dataset,
    "datasets/mnist5k/test_noise0.h5": read_noisy_test,
    "datasets/mnist5k/test_noise10.h5": read_noisy_test,
    "probes/mnist5k/noise0.h5": read_probes,
    "probes/mnist5k/noise10.h5": read_probes,
    "networks/mnist5k/lenet/noise0/seed0.h5": lambda path: (load_network(path), read_history(path)),
    "networks/mnist5k/lenet/noise0/seed1.h5": lambda path: (load_network(path), read_history(path)),
    "sensitivity/mnist5k/lenet/noise0/seed0.h5": read_sensitivity,
    "sensitivity_shuffled/mnist5k/lenet/noise0/seed0.h5": read_sensitivity,
    "spectra/mnist5k/lenet/noise0/seed0.h5": read_spectra,
    "scale_detection/homogeneous.h5": read_rows,
}
TABLES = ("tables/sensitivity.csv", "tables/spectrum.csv")


@contextlib.contextmanager
def published(results: Path, name: str) -> Iterator[Path]:
    """Path of a file of the results, which is written as a job writes it."""
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with planned_as(plan_of("rule", {}, {}, path, results)):
        yield path


def make_results(results: Path) -> None:
    """A file of each kind, of the stages themselves; the networks are not trained."""
    names = list(READERS)
    data, networks, probes = names[0], names[5:7], "probes/mnist5k/noise0.h5"
    with published(results, data) as path:
        prepare_dataset(path, "mnist5k", train_images=20, test_images=20)
    for noise in (0, 10):
        with published(results, f"datasets/mnist5k/test_noise{noise}.h5") as path:
            write_noisy_test(path, results / data, noise)
        with published(results, f"probes/mnist5k/noise{noise}.h5") as path:
            perturb_test_images(path, results / f"datasets/mnist5k/test_noise{noise}.h5", 4, 1.0, 3, "bilinear")
    for seed, name in enumerate(networks):
        torch.manual_seed(seed)
        network = TrainedNetwork(NetworkKey("mnist5k", "lenet", 0.0, seed), (1, 28, 28), 10, Training(), 0.9, 20, "float32")
        state = copy_state(build_model("lenet", (1, 28, 28), 10, 0.5, None, None))
        network.recipe = Training(width=0.5)
        network.states = {"init": state, "best": state, "last": state}
        network.history = [{"epoch": 1, "learning_rate": 0.1, "train_loss": 2.0, "test_error": 0.5}]
        with published(results, name) as path:
            save_network(path, network)
    with published(results, names[7]) as path:
        measure_network(path, results / networks[0], results / probes, device="cpu")
    with published(results, names[8]) as path:
        measure_shuffled(path, results / networks[0], results / probes, 1, device="cpu")
    with published(results, names[9]) as path:
        analyse_filters(path, results / networks[0])
    with published(results, names[10]) as path:
        measure_homogeneous(path)
    tables = sensitivity_table([results / names[7]], []), spectrum_table([results / names[9]])
    for name, table in zip(TABLES, tables, strict=True):
        path = results / name
        path.parent.mkdir(exist_ok=True)
        table.to_csv(path, index=False)
        record(path, results, plan_of("rule", {}, {}, path, results))


def read_as_job(results: Path, name: str) -> None:
    """Read a file as a job reads its input."""
    check_input(results / name, results)
    if name in READERS:
        READERS[name](results / name)


def break_files(results: Path, count: Count, moments: random.Random, number: int) -> None:
    for name in (*READERS, *TABLES):
        path = results / name
        whole = path.read_bytes()
        for fault, other in damaged(whole, moments, number):
            path.write_bytes(other)
            count.attempt(fault, name, lambda name=name: read_as_job(results, name), other == whole)
        for other_name in READERS:
            if other_name != name and name in READERS:
                shutil.copy(results / other_name, path)
                count.attempt("another file under the name", name, lambda name=name: read_as_job(results, name), False)
        path.unlink()
        os.mkfifo(path)
        count.attempt("a pipe", name, lambda name=name: read_as_job(results, name), False)
        path.unlink()
        path.mkdir()
        count.attempt("a folder", name, lambda name=name: read_as_job(results, name), False)
        path.rmdir()
        count.attempt("no file", name, lambda name=name: read_as_job(results, name), False)
        with h5py.File(path, "w") as file:
            file["x"] = h5py.ExternalLink("other.h5", "/x")
        count.attempt("a foreign file", name, lambda name=name: read_as_job(results, name), False)
        path.write_bytes(whole)
        count.attempt("none", name, lambda name=name: read_as_job(results, name), True)


def break_tables(results: Path, count: Count, moments: random.Random, number: int) -> None:
    for name in TABLES:
        path = results / name
        lines = path.read_text().splitlines(keepends=True)
        for _ in range(number):
            row = moments.randrange(1, len(lines))
            other = lines[row].translate(str.maketrans("0123456789", "1234567890"))
            for fault, rows in {
                "row lost": lines[:row] + lines[row + 1 :],
                "row twice": [*lines[: row + 1], *lines[row:]],
                "digit changed": [*lines[:row], other, *lines[row + 1 :]],
            }.items():
                path.write_text("".join(rows))
                count.attempt(fault, name, lambda name=name: read_as_job(results, name), rows == lines)
        path.write_text("".join(lines))


def break_checkpoints(folder: Path, count: Count, moments: random.Random, number: int) -> None:
    """The damaged one is set aside, and the one before it is loaded."""
    for step in (1, 2):
        checkpoints = Checkpoints(folder, {"recipe": 1})
        last = checkpoints.save(step, Checkpoint({"x": torch.arange(100.0) + step}, {"step": step}))
    whole = last.read_bytes()
    for fault, other in damaged(whole, moments, number):
        last.write_bytes(other)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            found = Checkpoints(folder, {"recipe": 1}).load()
        fell_back = found is not None and found.values["step"] == 1 and "cannot be read" in said.getvalue()
        count.attempt(f"checkpoint: {fault}", last.name, lambda: None, fell_back or other == whole)
        last.write_bytes(whole)
