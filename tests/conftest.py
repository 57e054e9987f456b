import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from relstab.architectures import ARCHITECTURES

from helpers import FEW, FEW_TARGETS, Reference, few_networks, run
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
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder by its name: one process of the tests does, for all; none changes it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name).exists():
                new = tmp_path_factory.mktemp(name)
                make(new)
                new.rename(shared / name)
        return shared / name

    return made


@pytest.fixture(scope="session")
def finished(made_once) -> Path:
    """A folder in which the smoke config ran to its end."""
    return made_once("finished", lambda folder: run(folder, "all", "report", "--cores", "2"))


@pytest.fixture(scope="session")
def finished_few(made_once, finished) -> Path:
    """The same, and then the tables and two figures of the config `few.yaml` in it, which has few of its networks."""

    def make(folder):
        shutil.copytree(finished, folder, symlinks=True, dirs_exist_ok=True)
        (folder / FEW).write_text(few_networks())
        run(folder, *FEW_TARGETS, "--cores", "2", config=folder / FEW)

    return made_once("finished_few", make)


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
