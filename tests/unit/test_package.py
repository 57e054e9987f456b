"""The package as it is shipped: its names, and files that say the same thing twice."""

import importlib
import importlib.metadata
import itertools
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import types

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import relstab
from relstab.figures import FIGURES

from helpers import ROOT


def test_public_names_are_what_they_say_after_every_module_was_imported():
    for module in pkgutil.walk_packages(relstab.__path__, "relstab."):
        importlib.import_module(module.name)
    for name in relstab.__all__:
        assert not isinstance(getattr(relstab, name), types.ModuleType), name
    assert set(relstab.__all__) <= set(dir(relstab))
    with pytest.raises(AttributeError, match="No relstab attribute sensitvity"):
        _ = relstab.sensitvity


@pytest.mark.slow
def test_what_needs_no_torch_does_not_load_it():
    rooms = ["config", "tables", "figures", "report"]
    found = (pkgutil.iter_modules([str(ROOT / "src/relstab" / room)], f"relstab.{room}.") for room in rooms)
    modules = [module.name for module in itertools.chain(*found) if not module.name.endswith("__main__")]
    code = f"""
import importlib, sys, relstab.data.published
assert "scipy" not in sys.modules
for name in {["relstab.data.published", "relstab.filter_spectra", "relstab.stages.spectra", "relstab.stages.tables", *modules]}:
    importlib.import_module(name)
    assert not {{"torch", "torchvision"}} & set(sys.modules), name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_citation_names_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == relstab.__version__


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_conda_environment_is_that_of_pyproject():
    environment = yaml.safe_load((ROOT / "envs/relstab.yaml").read_text())
    listed = {Requirement(line) for part in environment["dependencies"] if isinstance(part, dict) for line in part["pip"]}
    required = map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["pipeline"])
    assert listed == set({requirement.name: requirement for requirement in required}.values())  # the pipeline's bounds count


def test_the_oldest_versions_are_the_lower_bounds_of_the_library():
    lines = (ROOT / "envs/oldest.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    bounds = map(Requirement, PROJECT["dependencies"])
    assert [str(pin).replace("==", ">=") for pin in pinned] == list(map(str, bounds))


def test_the_tested_versions_are_within_the_ranges():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            pinned[requirement.name.lower()] = str(requirement.specifier).removeprefix("==")
    for line in itertools.chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        requirement = Requirement(line)
        if requirement.name != "relstab":
            assert requirement.specifier.contains(pinned[requirement.name.lower()]), line


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a checkout")
def test_the_source_distribution_is_the_whole_checkout(tmp_path):
    pytest.importorskip("setuptools")
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    checkout = tmp_path / "checkout"  # without what an earlier build may have left
    for name in listed:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    code = "from setuptools import build_meta; build_meta.build_sdist('..')"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, check=True)
    with tarfile.open(tmp_path / f"relstab-{relstab.__version__}.tar.gz") as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert set(listed) - packed == set()


def test_the_lock_has_every_package_that_others_need():
    """Of what is installed here; extras that are not, such as models, are looked up in the list itself."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    needed: set[str] = set()
    waiting = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["pipeline"]]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in needed:
            continue
        needed.add(name)
        for line in importlib.metadata.requires(name) or []:
            other = Requirement(line)
            if other.marker is None or any(other.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
                waiting.append(other)
    assert len(needed) > 50
    assert needed - pinned <= {"setuptools"}  # comes with the environment


def test_the_page_on_results_names_rules_that_exist():
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    known = {*re.findall(r"^rule (\w+):", rules, re.MULTILINE), "table_NAME"}
    page = (ROOT / "results/README.md").read_text().partition("## Tables")[0]
    cells = re.findall(r"^\| .* \| ([^|]+) \|$", page, re.MULTILINE)[1:]
    assert len(cells) > 15
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} <= known


def test_the_readme_names_what_is_there():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (ROOT / target).exists(), target
    layout = re.search(r"## Layout\n\n```\n(.*?)```", text, re.DOTALL)[1]
    for name in re.findall(r"^([\w./]+)", layout, re.MULTILINE):
        assert (ROOT / name).exists(), name
    rooms = {path.name for path in (ROOT / "src/relstab").glob("*/") if path.name != "__pycache__"}
    assert set(re.findall(r"(\w+)/", "".join(re.findall(r"^  (\w.*?)   ", layout, re.MULTILINE)))) == rooms
    for name in re.findall(r"relstab\.(\w+)\(", text):
        assert name in relstab.__all__, name
    figures = r"`((?:fig\d\d|imagenet|learning|over|relu|training)_\w+|deformations|displacements|initialization)`"
    assert set(re.findall(figures, text)) == set(FIGURES)
