"""What the documentation says to type: commands are planned, parsed or looked up, blocks of Python run, the site builds."""

import ast
import importlib
import multiprocessing
import os
import re
import shlex
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
import yaml
from click.testing import CliRunner
from snakemake.utils import update_config

from relstab.cli import main
from relstab.config import load_config
from relstab.figures import FigureEntry

from helpers import RESULTS, ROOT

GUIDES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "results/README.md")]
PAGES = [*GUIDES, *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = [page for page in PAGES if "{code-cell}" in page.read_text()]


def page_name(page):
    return str(page.relative_to(ROOT))


def blocks(page, *languages):
    """Contents of the fenced blocks of these languages."""
    found = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(), flags=re.MULTILINE)
    return [text for language, text in found if language.strip() in languages]


def commands(page):
    """Commands in fenced blocks, one per line, and within sentences, without their comments."""
    lines = [line for text in blocks(page, "", "sh") for line in text.splitlines()]
    sentences = re.sub(r"^```(.*\n)*?```$", "", page.read_text(), flags=re.MULTILINE)
    lines += [" ".join(line.split()) for line in re.findall(r"`([^`]+)`", sentences)]
    return {words for line in lines if (words := tuple(shlex.split(line, comments=True)) if "'" not in line else ())}


COMMANDS = sorted({(page_name(page), *words) for page in PAGES for words in commands(page) if len(words) > 1})

# ---- make, relstab -------------------------------------------------------------------------------------------------------------


def test_every_target_of_make_exists():
    targets = {target for _, program, target, *_ in COMMANDS if program == "make"}
    assert {"install", "figures", "test"} <= targets
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1].split()
    assert targets <= set(phony)


def test_every_command_of_relstab_takes_its_options(tmp_path):
    (tmp_path / "DIR").mkdir()
    (tmp_path / "FILE.h5").touch()
    typed = {words for _, program, *words in map(list, COMMANDS) if program == "relstab" for words in [tuple(words)]}
    typed = {words for words in typed if words[0] in main.commands}
    assert len(typed) >= 3
    for name, *arguments in typed:
        if arguments and "--help" not in arguments:
            names = [str(tmp_path / word) if (tmp_path / word).exists() else word for word in arguments]
            main.commands[name].make_context(name, names)
        else:
            assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0, name


# ---- Snakemake -----------------------------------------------------------------------------------------------------------------

NOT_PLANNED = {
    "apptainer": "it is not installed",
    "kubernetes": "its executor is a plugin that is not installed",
    "lsf": "its executor is a plugin that is not installed",
    "htcondor": "its executor is a plugin that is not installed",
    "results/figures/my_figure.png": "the figure is the reader's; its code runs below",
}
TYPED = [words for words in COMMANDS if words[1] == "snakemake" and not set(NOT_PLANNED) & set(words)]
# Each once, whatever the page: with -n or without is one plan.
PLANNED = list({tuple(sorted({*words[2:]} - {"-n"})): words for words in TYPED}.values())


def overlay(page):
    """The config of the blocks of YAML of a page."""
    config = {}
    for text in blocks(page, "yaml"):
        update_config(config, yaml.safe_load(text))
    return config


def plan(folder, arguments, out):
    os.chdir(folder)
    file = os.open(out, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from snakemake.cli import main

    main(["--snakefile", str(ROOT / "Snakefile"), *arguments, "--dry-run", "--quiet", "all"])


@pytest.mark.parametrize("words", PLANNED, ids=" ".join)
def test_every_call_of_snakemake_can_be_planned(tmp_path, words):
    page, _, *arguments = words
    for name in ("configs", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    for name in ("resnet50-0676ba61.pth", "val/a.JPEG"):  # named by docs/imagenet.md
        (tmp_path / "weights" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "weights" / name).touch()
    config = overlay(ROOT / page) if page == "docs/imagenet.md" else {"data": {"name": "cifar10"}}
    if config.get("imagenet"):
        config["imagenet"]["images"] = "weights/val"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    arguments = ["mine.yaml" if word == "YOUR_CONFIG.yaml" else word for word in arguments if word != "..."]
    if page == "docs/imagenet.md":
        arguments += ["--configfile", "mine.yaml"]
    if not {"--cores", "--profile"} & set(arguments):
        arguments += ["--cores", "1"]
    out = tmp_path / "out.txt"
    process = multiprocessing.get_context("fork").Process(target=plan, args=(tmp_path, arguments, out))
    process.start()
    process.join()
    assert process.exitcode == 0, out.read_text()


def test_what_is_not_planned_is_there():
    typed = {word for words in COMMANDS for word in words}
    assert set(NOT_PLANNED) <= typed


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=page_name)
def test_every_block_of_yaml_is_an_overlay_of_the_config(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # the user's code is named by paths from here
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, overlay(page))
    load_config(config)


# ---- Python --------------------------------------------------------------------------------------------------------------------

SMALLER = {
    'weights="DEFAULT"': "weights=None",  # a download
    "torch.rand(100, 3, 224, 224)": "torch.rand(6, 3, 64, 64)",
    "size=128, scale=32": "size=32, scale=8",
    "train=1024": "train=64",
    "depth=7, filter_size=2, stride=2, channels=100": "depth=4, filter_size=2, stride=2, channels=8",
    "decay_epochs=80": "decay_epochs=1",
    "seeds=range(10)": "seeds=range(2)",
}
PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", PYTHON, ids=page_name)
def test_every_block_of_python_runs(finished, tmp_path, monkeypatch, page):
    (tmp_path / "results").symlink_to(finished / RESULTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    importlib.import_module("relstab.architectures.torchvision")  # imports torchvision's wheel where it does not match torch
    names = {"FigureEntry": FigureEntry, "images": [0], "labels": [0]}
    for text in blocks(page, "python"):
        for long, short in SMALLER.items():
            text = text.replace(long, short)
        if re.match(r'"\w+": ', text):  # an entry of a dict
            text = f"{{{text}}}"
        exec(compile(text, page_name(page), "exec"), names)
    if page.name == "CONTRIBUTING.md":
        import pandas as pd

        drawn = names["draw"](pd.read_csv("results/tables/networks.csv"))
        assert drawn.axes
    plt.close("all")


def test_the_first_example_prints_what_the_readme_shows():
    example, shown = blocks(ROOT / "README.md", "python")[0], blocks(ROOT / "README.md", "")[0]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True, cwd=ROOT)
    assert [line.split() for line in done.stdout.splitlines()] == [line.split() for line in shown.splitlines()]


@pytest.mark.parametrize("page", NOTEBOOKS, ids=page_name)
def test_notebooks_run(page):
    cells = blocks(page, "{code-cell} python")
    assert len(cells) >= 3
    names = {}
    for cell in cells:
        code = re.sub(r"^:tags:.*\n", "", cell)
        ast.parse(code)
        exec(compile(code, page_name(page), "exec"), names)
    assert plt.get_fignums()
    plt.close("all")
    if page.name == "tutorial.md":
        table = names["table"].set_index("layer")
        assert table.loc["input", "R"] == pytest.approx(1, abs=1e-4)
        assert float(names["error"]) < 0.1
        parts = names["parts"].set_index(["layer", "perturbation"])
        # The same probes measured in two ways; noise is the reference.
        assert parts.loc[("output", "noise"), "ratio"] == 1
        assert parts.loc[("output", "deformation"), "ratio"] == pytest.approx(table.loc["output", "R"], rel=0.5)


# ---- The site ------------------------------------------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning_and_asks_for_nothing_elsewhere(finished, tmp_path):
    """Notebooks are run above, so not here."""
    flags = ["--fail-on-warning", "--keep-going", "-q", "-D", "nb_execution_mode=off", "-D", "suppress_warnings=myst-nb.lexer"]
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags, "--conf-dir", "docs", "--doctree-dir", str(tmp_path / "trees"), ".", str(site)],
        cwd=ROOT,
        env={**os.environ, "RELSTAB_FIGURES": str(finished / RESULTS / "figures")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [path for path in site.rglob("*.html") if "_static" not in path.parts and path.name != "search.html"]
    assert {"docs/science.html", "docs/generated/gallery.html", "README.html"} <= {str(path.relative_to(site)) for path in pages}
    for path in pages:
        text = path.read_text()
        for tag in re.findall(r"<(?:script|img|iframe|link rel=\"(?:stylesheet|preload)\")[^>]*>", text):
            assert not re.search(r"(?:src|href)=\"(?:https?:)?//", tag), f"{path.relative_to(site)}: {tag}"
        for target in re.findall(r"<(?:script|img)[^>]* src=\"([^\"#?]+)", text):
            assert (path.parent / target).exists() or target.startswith("data:"), f"{path.relative_to(site)}: {target}"
    assert "fig07_pooling_scaling.png" in (site / "docs/generated/gallery.html").read_text()
