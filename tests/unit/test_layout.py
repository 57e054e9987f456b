"""The rooms of the package: imports go down only, in no circle, and each HDF5 format is opened in one room."""

import ast
import importlib.util
from graphlib import TopologicalSorter

import pytest

from helpers import ROOT

PACKAGE = ROOT / "src/relstab"
GROUND = "ground floor"
ROOMS = [
    "cli", "stages", "report", "figures", "tables", "config", "data",
    "scale_detection", "training", "files", "architectures", GROUND, "runs",
]  # fmt: skip
"""From top to bottom: a module imports from its own room and from those below."""

# A snapshot of the code holds the commit and the digests of user code: constants of two rooms, no science.
SNAPSHOT = {("relstab.runs.snapshot", "relstab.files.hdf5"), ("relstab.runs.snapshot", "relstab.architectures.user_code")}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}
MODULES.pop("relstab")  # the public names and the version, which belong to no room


def imports_at_run_time(tree):
    """Names that a module imports at the top or in a function; imports for type checkers load nothing."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
        else:
            yield from imports_at_run_time(node)


IMPORTS = {module: list(imports_at_run_time(ast.parse(path.read_text()))) for module, path in MODULES.items()}


def modules_imported(module):
    """Modules of the package among the imports: `from relstab.stages import imagenet` imports a module."""
    names = {f"{source}.{name}" if f"{source}.{name}" in MODULES else source for source, name in IMPORTS[module]}
    return sorted(name for name in names & set(MODULES) if name != module)


def room_of(module):
    part = module.split(".")[1]
    return part if part in ROOMS else GROUND


ARROWS = [(module, other) for module in sorted(MODULES) for other in modules_imported(module)]


def test_every_module_is_in_a_room():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {*ROOMS} - {GROUND}
    assert len(ARROWS) > 100
    assert all(importlib.util.find_spec(module) for module in MODULES)


def test_imports_go_down():
    upward = {(module, other) for module, other in ARROWS if ROOMS.index(room_of(other)) < ROOMS.index(room_of(module))}
    assert upward - SNAPSHOT == set()


def test_no_imports_form_a_circle():
    graph = {module: {other for start, other in ARROWS if start == module} for module in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def opens_hdf5(module):
    return any(source == "h5py" or name in ("open_hdf5", "write_hdf5") for source, name in IMPORTS[module])


@pytest.mark.parametrize("module", sorted(module for module in MODULES if opens_hdf5(module)))
def test_hdf5_files_are_opened_in_one_room(module):
    assert room_of(module) == "files" or module == "relstab.training.checkpoint"
