import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import pandas as pd
import pytest

from relstab.files.hdf5 import atomic_path, open_hdf5, provenance, write_hdf5, write_table
from relstab.runs.seeding import derive_seed, make_generator

from helpers import ROOT


def test_a_new_file_replaces_the_old_one_atomically(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_table(path, pd.DataFrame({"a": [0.1, 1 / 3]}))
    assert pd.read_csv(path)["a"].tolist() == [0.1, 1 / 3]
    with atomic_path(path) as temporary:
        temporary.write_text("other")
        assert path.read_text() != "other"
    assert path.read_text() == "other"
    assert os.listdir(path.parent) == ["table.csv"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "data.h5"
    with write_hdf5(path, {"version": 1}):
        pass

    def write_half():
        with write_hdf5(path, {"version": 2}) as file:
            file["x"] = [1, 2]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    with open_hdf5(path) as file:
        assert file.attrs["version"] == 1
    assert os.listdir(tmp_path) == ["data.h5"]


def test_a_killed_writer_leaves_no_file_and_the_next_removes_its_temporary_file(tmp_path):
    path = tmp_path / "data.h5"
    code = f"""
import time
from relstab.files.hdf5 import write_hdf5
with write_hdf5({str(path)!r}, {{}}) as file:
    file["x"] = list(range(100_000))
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not path.exists()
    assert len(os.listdir(tmp_path)) == 1
    with write_hdf5(path, {}) as file:
        file["x"] = [1]
    assert os.listdir(tmp_path) == ["data.h5"]


def test_a_live_writer_is_left_alone(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first:
        first.write_text("first")
        with atomic_path(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_readers_never_see_a_half_written_file(tmp_path):
    path = tmp_path / "data.h5"
    code = f"""
from relstab.files.hdf5 import write_hdf5
for value in range(200):
    with write_hdf5({str(path)!r}, {{"value": value}}) as file:
        file["x"] = [value] * 1000
"""
    writer = subprocess.Popen([sys.executable, "-c", code])
    seen = set()
    while writer.poll() is None:
        if path.exists():
            with open_hdf5(path) as file:
                assert set(file["x"][:]) == {file.attrs["value"]}
                seen.add(int(file.attrs["value"]))
        time.sleep(0.002)
    assert writer.returncode == 0
    assert len(seen) > 3


def test_missing_and_unreadable_files_have_messages_that_say_how_to_mend_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage that makes it first"), open_hdf5(tmp_path / "none.h5"):
        pass
    (tmp_path / "bad.h5").write_text("no HDF5")
    with pytest.raises(OSError, match=r"not a readable HDF5 file .* delete it and run again"), open_hdf5(tmp_path / "bad.h5"):
        pass


def test_every_file_carries_its_provenance(tmp_path):
    with write_hdf5(tmp_path / "a.h5", provenance({"learning_rate": 0.1}, seed=4, device="cpu")):
        pass
    with h5py.File(tmp_path / "a.h5") as file:
        attributes = dict(file.attrs)
    assert json.loads(attributes["parameters"]) == {"learning_rate": 0.1}
    assert attributes["seed"] == 4
    assert set(attributes) == {
        "parameters", "relstab_version", "git_commit", "code", "torch_version", "python_version", "device", "seed",
    }  # fmt: skip


def test_seeds_follow_from_identities_alone():
    seed = derive_seed("training", 0, "lenet", 10, 1)
    assert seed == derive_seed("training", 0, "lenet", 10.0, 1)
    others = {
        derive_seed("training", 1, "lenet", 10, 1),
        derive_seed("training", 0, "lenet", 10, 2),
        derive_seed("training", 0, "fc2", 10, 1),
        derive_seed("probes", 0, "lenet", 10, 1),
        derive_seed("training", 0, "lenet", "10", 1),
    }
    assert seed not in others
    assert len(others) == 5
    # A constant: a change of this number would change every result.
    assert seed == 3792674391316653898
    assert make_generator("a", 1).initial_seed() == derive_seed("a", 1)


def test_the_commit_says_whether_code_was_edited(tmp_path):
    """A config is not code, and neither is the list of a cluster's partitions."""
    checkout = tmp_path / "checkout"
    git = ["git", "-C", checkout]
    # A repository of its own: these tests also run from a source distribution, which is none.
    for folder in ("src", "slurm", "workflow"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("config.yaml", ".gitignore"):
        shutil.copy(ROOT / name, checkout / name)
    who = ["-c", "user.name=name", "-c", "user.email=name@example.org"]
    for step in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message", "code"]):
        subprocess.run([*git, *step], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()

    def reported_commit():
        ask = "from relstab.files.hdf5 import git_commit; print(git_commit())"
        environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
        return subprocess.run(
            [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert reported_commit() == head
    for config in ("config.yaml", "slurm/config.yaml"):
        with (checkout / config).open("a") as file:
            file.write("# edited\n")
    assert reported_commit() == head
    with (checkout / "workflow/scripts/train.py").open("a") as file:
        file.write("# edited\n")
    assert reported_commit() == f"{head}-dirty"
