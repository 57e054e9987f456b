from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from relstab.architectures import ARCHITECTURES

from helpers import Reference, run

# Seeded, and with no say on time: a slow machine is no failure.
settings.register_profile("relstab", derandomize=True, deadline=None)
settings.load_profile("relstab")


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


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder in which the smoke config ran to its end."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder, "all", "report", "--cores", "2")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run the workflow or a cluster are slow."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in ("workflow", "slurm"):
            item.add_marker(pytest.mark.slow)
