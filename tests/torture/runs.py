"""Runs that are killed, and runs whose disk is full: the next run ends with the same results."""

import contextlib
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from relstab.config import Training
from relstab.files.dataset import read_dataset, read_noisy_test
from relstab.files.hdf5 import write_table
from relstab.files.plan import plan_of, record
from relstab.stages.datasets import prepare_dataset, write_noisy_test
from relstab.stages.networks import train_and_save
from relstab.stages.probes import perturb_test_images
from relstab.stages.sensitivity import measure_network, measure_shuffled
from relstab.stages.spectra import analyse_filters
from relstab.stages.tables import network_table, sensitivity_table, spectrum_table

from helpers import assert_same_results, command
from torture.count import Count
from torture.files import published

__all__ = ["fill_disks", "kill_stages", "kill_workflow"]

RECIPE = Training(epochs=4, batch_size=10, learning_rate=0.02, width=0.25)
# Every step of a training is followed by a checkpoint.
ALWAYS = 1e-9
TEST, PROBES, NETWORK = "datasets/test.h5", "probes/some.h5", "networks/lenet.h5"


def _train(path: Path, results: Path) -> None:
    dataset, test = read_dataset(results.parent / "digits.h5"), read_noisy_test(results / TEST)
    train_and_save(path, "lenet", dataset, test, RECIPE, 0.0, 0, device="cpu", checkpoint_minutes=ALWAYS)


STAGES: dict[str, Callable[[Path, Path], None]] = {
    TEST: lambda path, results: write_noisy_test(path, results.parent / "digits.h5", 0.0),
    PROBES: lambda path, results: perturb_test_images(path, results / TEST, 5, 1.0, 3, "bilinear"),
    NETWORK: _train,
    "sensitivity/plain.h5": lambda path, results: measure_network(path, results / NETWORK, results / PROBES, device="cpu"),
    "sensitivity/shuffled.h5": lambda path, results: measure_shuffled(path, results / NETWORK, results / PROBES, 2, device="cpu"),
    "spectra/lenet.h5": lambda path, results: analyse_filters(path, results / NETWORK),
    "tables/networks.csv": lambda path, results: write_table(path, network_table([results / NETWORK])),
    "tables/sensitivity.csv": lambda path, results: write_table(
        path, sensitivity_table([results / "sensitivity/plain.h5"], [results / "sensitivity/shuffled.h5"])
    ),
    "tables/spectrum.csv": lambda path, results: write_table(path, spectrum_table([results / "spectra/lenet.h5"])),
}


def _run(results: Path, limit: int | None) -> None:
    """Make what is missing, as a run does; a failure is one sentence in a file."""
    torch.set_num_threads(1)
    with (results.parent / "said.txt").open("w", buffering=1) as said, contextlib.redirect_stdout(said):
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            for name, make in STAGES.items():
                if not (results / name).exists():
                    with published(results, name) as path:
                        make(path, results)
                    if name.endswith(".csv"):
                        record(path, results, plan_of("rule", {}, {}, path, results))
        except OSError as error:
            (results.parent / "error.txt").write_text(f"{error}: {error.filename or ''}")
            os._exit(1)
    os._exit(0)


def _start(results: Path, limit: int | None = None) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=_run, args=(results, limit))
    process.start()
    return process


def _ended(results: Path) -> None:
    """A run that is left alone."""
    process = _start(results)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{results}: the run ended with {process.exitcode}, {(results.parent / 'said.txt').read_text()}")


def _prepare(folder: Path) -> tuple[Path, float]:
    """Results of a run that was left alone, and how long it took."""
    folder.mkdir()
    prepare_dataset(folder / "digits.h5", "mnist5k", train_images=60, test_images=30)
    start = time.monotonic()
    _ended(folder / "undisturbed")
    return folder / "undisturbed", time.monotonic() - start


def _same(results: Path, undisturbed: Path) -> None:
    for checkpoints in results.rglob("*.checkpoints"):  # they wait until a job reads their network
        subprocess.run(["rm", "-r", checkpoints], check=True)
    for checkpoints in undisturbed.rglob("*.checkpoints"):
        subprocess.run(["rm", "-r", checkpoints], check=True)
    for left_over in results.rglob("*.partial-*"):  # of a killed process, which the next writer of the file removes
        left_over.unlink()
    assert_same_results(results, undisturbed)


def kill_stages(folder: Path, count: Count, moments: random.Random, number: int) -> None:
    """The stages in one process, killed up to three times at any moment, then run to the end."""
    undisturbed, seconds = _prepare(folder)
    for trial in range(number):
        results = folder / f"killed{trial}"
        for _ in range(moments.randint(1, 3)):
            process = _start(results)
            process.join(moments.uniform(0, seconds))
            process.kill()
            process.join()
        count.attempt(
            "kill of the stages", results.name, lambda results=results: (_ended(results), _same(results, undisturbed)), True
        )


def fill_disks(folder: Path, count: Count, moments: random.Random, number: int) -> None:
    """Files of at most some bytes, as on a full disk: one sentence that names the file, then the same results with room."""
    undisturbed, _ = _prepare(folder)
    largest = max(path.stat().st_size for path in undisturbed.rglob("*.h5"))
    for trial in range(number):
        results = folder / f"full{trial}"
        process = _start(results, moments.randrange(largest))
        process.join()

        def outcome(process: multiprocessing.process.BaseProcess = process) -> None:
            if process.exitcode:
                raise OSError((folder / "error.txt").read_text() if process.exitcode == 1 else f"exit code {process.exitcode}")

        count.attempt("full disk", "h5", outcome, True)
        count.attempt("room again", results.name, lambda results=results: (_ended(results), _same(results, undisturbed)), True)


CONFIG = {
    "architectures": ["fc2"],
    "noise": [0],
    "seeds": 1,
    "data": {"train_images": 60, "test_images": 40},
    "training": {"epochs": 3},
    "recipes": {"fc2": {"epochs": 3, "width": 0.25}},
    "probes": {"images": 10},
}
TARGETS = [f"tables/{name}.csv" for name in ("networks", "sensitivity")]


def kill_workflow(folder: Path, count: Count, moments: random.Random, number: int) -> None:
    """Snakemake, killed at any moment with or without its jobs, then run to the end at once."""
    folder.mkdir()
    config = folder / "mine.yaml"
    config.write_text(yaml.safe_dump(CONFIG))

    def start(place: Path) -> subprocess.Popen[bytes]:
        place.mkdir(exist_ok=True)
        targets = [f"results/{name}" for name in TARGETS]
        said = (place / "said.txt").open("ab")
        arguments = command(place, *targets, "--cores", "2", config=config)
        return subprocess.Popen(arguments, cwd=place, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)

    def ended(place: Path) -> None:
        if start(place).wait():
            raise RuntimeError((place / "said.txt").read_text()[-2000:])

    begin = time.monotonic()
    ended(folder / "undisturbed")
    seconds = time.monotonic() - begin
    for trial in range(number):
        place = folder / f"killed{trial}"
        process = start(place)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0, seconds))
        kill = os.killpg if trial % 2 else os.kill  # the jobs, too, or Snakemake alone
        with contextlib.suppress(ProcessLookupError):
            kill(process.pid, signal.SIGKILL)
        process.wait()
        count.attempt(
            "kill of the workflow",
            place.name,
            lambda place=place: (ended(place), _same(place / "results", folder / "undisturbed/results")),
            True,
        )
