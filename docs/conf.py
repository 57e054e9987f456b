"""Sphinx configuration of the documentation: `make docs`. The source folder is the checkout, so that links work as on GitHub.

Pages that say what the code says are written from it when the build begins, into ``docs/generated``.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs")]
os.environ["PYTHONPATH"] = str(ROOT / "src")  # for the kernels that execute notebooks

import write_pages  # noqa: E402

import relstab  # noqa: E402

project = "relstab"
author = "the relstab authors"
version = release = relstab.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "results/README.md"]
exclude_patterns = ["docs/_build", ".venv", ".*", "src", "tests", "workflow", "results/[!R]*", "data", "docs/*.py"]
nitpicky = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_excludepatterns: list[str] = []

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "relstab"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}
html_sidebars = {"**": []}
html_show_sphinx = False
html_copy_source = False

# Kernels that execute notebooks have a configuration of their own: by default they warn that others on this machine could listen.
KERNELS = tempfile.TemporaryDirectory()
(Path(KERNELS.name) / "profile_default").mkdir()
(Path(KERNELS.name) / "profile_default/ipython_kernel_config.py").write_text('c.IPKernelApp.log_level = "ERROR"\n')
os.environ["IPYTHONDIR"] = KERNELS.name


def setup(app):
    """Write the pages that are made from the code, before Sphinx reads them."""
    figures = Path(os.getenv("RELSTAB_FIGURES", ROOT / "results/smoke/figures"))
    app.connect("config-inited", lambda *_: write_pages.write_all(ROOT / "docs/generated", figures))
    app.connect("autodoc-process-docstring", escape_norms)


def escape_norms(_app, _what, _name, _obj, _options, lines):
    """Bars of |x| are norms, not the substitutions of reStructuredText."""
    lines[:] = [line if "``" in line else re.sub(r"\\?\|", r"\|", line) for line in lines]
