import shutil
import subprocess
import sys
import time

import pytest
import yaml

from relstab.runs.snapshot import EditedError, changed_user_code, discard_snapshots, left_over_runs, run_snapshot

from helpers import ROOT

CONFIG = {"results": "results", "noise": [0, 10], "data": {"name": "mnist5k", "mean": None}, "recipes": {}}


@pytest.fixture
def own(tmp_path):
    code = tmp_path / "own.py"
    code.write_text("def data(root, seed):\n    return {}\n")
    return f"{code}:data"


def test_the_snapshot_is_complete(tmp_path, own):
    snakefile = run_snapshot(ROOT, tmp_path / "results", CONFIG, [own])
    copy = snakefile.parent
    for part in ("Snakefile", "workflow", "src", "envs"):
        theirs = [ROOT / part] if (ROOT / part).is_file() else list((ROOT / part).rglob("*"))
        for file in theirs:
            if file.is_file() and "__pycache__" not in file.parts and ".egg-info" not in str(file):
                assert (copy / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    assert yaml.safe_load((copy / "config.yaml").read_text()) == CONFIG
    assert not list((tmp_path / "results").glob("*.partial"))


def test_the_snapshot_knows_its_commit(tmp_path):
    """Results of a cluster name the same commit as those of one machine, although a snapshot is no checkout."""
    snakefile = run_snapshot(ROOT, tmp_path, CONFIG)
    ask = "from relstab.files.hdf5 import git_commit; print(git_commit())"
    said = [
        subprocess.run([sys.executable, "-c", ask], env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=True)
        for source in (ROOT / "src", snakefile.parent / "src")
    ]
    assert said[0].stdout == said[1].stdout


def test_changed_user_code_is_named(tmp_path, own):
    basedir = run_snapshot(ROOT, tmp_path / "results", CONFIG, [own]).parent
    assert changed_user_code(basedir) == []
    file = own.rpartition(":")[0]
    with open(file, "a") as code:
        code.write("# another text\n")
    assert changed_user_code(basedir) == [own]
    assert changed_user_code(ROOT) == []  # not a snapshot


def test_what_was_edited_while_the_run_was_planned_is_refused(tmp_path):
    checkout = tmp_path / "checkout"
    for part in ("workflow", "src", "envs"):
        shutil.copytree(ROOT / part, checkout / part)
    shutil.copy2(ROOT / "Snakefile", checkout)
    planned = time.time()
    run_snapshot(checkout, tmp_path / "results", CONFIG, planned=planned)
    (checkout / "Snakefile").touch()
    with pytest.raises(EditedError, match="Snakefile was edited while the run was being planned: start it again"):
        run_snapshot(checkout, tmp_path / "other", CONFIG, planned=planned)
    assert not list((tmp_path / "other").iterdir())


def test_snapshots_are_discarded(tmp_path):
    run_snapshot(ROOT, tmp_path, CONFIG, run="a-run")
    run_snapshot(ROOT, tmp_path, CONFIG)  # of an executor other than slurm
    assert left_over_runs(tmp_path) == ["a-run"]
    (tmp_path / ".run-killed.partial").mkdir()
    (tmp_path / "figures").mkdir()
    discard_snapshots(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]
    assert left_over_runs(tmp_path) == []
