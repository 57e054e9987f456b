from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from relstab.architectures import ARCHITECTURES

from helpers import Reference, run
from planning import Planners

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
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder in which the smoke config ran to its end: once for all processes of the tests, of which none changes it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "finished"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            new = tmp_path_factory.mktemp("smoke")
            run(new, "all", "report", "--cores", "2")
            new.rename(folder)
    return folder


@pytest.fixture(scope="session")
def planners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planners]:
    planners = Planners(tmp_path_factory.mktemp("planners"))
    yield planners
    planners.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run the workflow or a cluster are slow."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in ("workflow", "slurm"):
            item.add_marker(pytest.mark.slow)
