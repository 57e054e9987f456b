import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from relstab.architectures import ARCHITECTURES

# Seeded, and with no say on time: a slow machine is no failure.
settings.register_profile("relstab", derandomize=True, deadline=None)
settings.load_profile("relstab")

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "configs" / "smoke.yaml"


class Reference:
    """Numbers of the reference implementation: arrays as float64 tensors, figures as they are."""

    def __init__(self) -> None:
        self.arrays = np.load(DATA / "reference.npz")
        self.figures: dict[str, Any] = json.loads((DATA / "reference.json").read_text())

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20221123)


@pytest.fixture(autouse=True)
def _fixed_global_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_architectures_forgotten() -> Iterator[None]:
    """What a test makes known is not known to the next."""
    yield
    for name in [name for name, entry in ARCHITECTURES.items() if entry.builder]:
        del ARCHITECTURES[name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are then made in one order, the same to the last bit; and such small ones are made faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def command(folder, *arguments, config=SMOKE):
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [*snakemake, *arguments, "--configfile", str(config)]


def run(folder, *arguments, config=SMOKE, check=True):
    done = subprocess.run(
        command(folder, *arguments, config=config), cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder in which the smoke config ran to its end."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder, "all", "report", "--cores", "2")
    return folder
