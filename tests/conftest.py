import json
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
