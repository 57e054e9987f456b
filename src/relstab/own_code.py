"""Code of one's own, named in the config: a data set is a function in a Python file, an architecture a builder in another."""

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["file_of", "load_function", "source_digest"]


def file_of(reference: str) -> str:
    """File of a reference ``path/to/file.py:function``."""
    file, separator, function = reference.rpartition(":")
    if not separator or not file.endswith(".py") or not function.isidentifier():
        raise ValueError(f"{reference!r} is given: path/to/file.py:function is wanted")
    return file


def source_digest(reference: str) -> str:
    """SHA-256 of the file of a reference: another text is other code."""
    return hashlib.sha256(_existing(file_of(reference)).read_bytes()).hexdigest()


def _existing(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} does not exist (seen from {Path.cwd()}): a Python file is wanted")
    return path


def load_function(reference: str) -> Callable[..., Any]:
    """Function that a reference ``path/to/file.py:function`` names; a relative path starts at the working directory.

    The file is run anew. Modules beside it can be imported, as from a script.
    """
    path = _existing(file_of(reference)).resolve()
    name = reference.rpartition(":")[2]
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(str(path.parent))
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == path.stem]
        near = difflib.get_close_matches(name, own, 1, cutoff=0.4)
        hint = f" (nearest: {near[0]!r})" if near else f" (it has {', '.join(own) or 'none'})"
        raise ValueError(f"{path} has no function {name!r}{hint}")
    result: Callable[..., Any] = function
    return result
