"""Code of users, named in the config: a data set is a function in a Python file, an architecture a builder in another."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from relstab.runs.nearest import nearest

__all__ = ["check_reference", "file_of", "load_function", "source_digest"]


def file_of(reference: str) -> str:
    """File of a reference ``path/to/file.py:function``."""
    file, separator, function = reference.rpartition(":")
    if not separator or not file.endswith(".py") or not function.isidentifier():
        raise ValueError(f"expected path/to/file.py:function, got {reference!r}")
    if set("{}$") & set(file):
        raise ValueError(f"expected a path without braces, which name wildcards, and without variables, got {reference!r}")
    return file


def source_digest(reference: str) -> str:
    """SHA-256 of the file of a reference: it changes with every edit of the file."""
    return hashlib.sha256(_existing(file_of(reference)).read_bytes()).hexdigest()


def _existing(file: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"expected a Python file, got {file}, which does not exist (in {Path.cwd()})")
    return path


def check_reference(reference: str) -> None:
    """Raise an error if a reference leads to no function, as far as this shows without running the file."""
    path, name = _existing(file_of(reference)), reference.rpartition(":")[2]
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no Python file ({error})") from error
    names: list[str] = []
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.append(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name for alias in statement.names]
        elif not isinstance(statement, ast.Expr):  # assignments, loops and so on: all names that they bind
            names += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
            names += [node.name for node in ast.walk(statement) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    if name not in names and "*" not in names:
        _raise_unknown(path, name, names)


def _raise_unknown(path: Path, name: str, names: list[str]) -> NoReturn:
    raise ValueError(f"{path} has no function {name!r}{nearest(name, names)}")


def load_function(reference: str) -> Callable[..., Any]:
    """Function that a reference ``path/to/file.py:function`` names; a relative path starts at the working directory.

    The file is run again at each call. Modules beside it can be imported, as from a script.
    """
    path = _existing(file_of(reference)).resolve()
    name = reference.rpartition(":")[2]
    # A unique name, so that no other module is replaced, and code that looks up its own module, as a dataclass does, finds it.
    module_name = f"relstab_own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    specification = importlib.util.spec_from_file_location(module_name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be imported ({type(error).__name__}: {error})") from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        _raise_unknown(path, name, [key for key, value in vars(module).items() if callable(value)])
    return function
