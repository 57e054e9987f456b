"""Measure how neural networks lose spatial information.

The public names are listed in ``__init__.pyi``. Each is loaded at its first use, so that tasks without torch (checking a
config, drawing a figure) start at once.
"""

import lazy_loader

__version__ = (
    "0.1.0"  # the only place of the version: pyproject.toml reads it here, since the workflow runs without an installation
)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
