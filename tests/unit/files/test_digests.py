"""Files that were damaged, swapped or are something else: each is refused with a sentence, and none is believed."""

import errno
import os
import random
import resource
import subprocess
import sys

import h5py
import numpy as np
import pytest

from relstab.files.hdf5 import FileError, open_hdf5, read_attributes, write_hdf5
from relstab.files.plan import check_input, differing, give_time_of_inputs, plan_of, record


@pytest.fixture
def path(tmp_path):
    """A file with each thing that a file of the pipeline has: attributes, names, numbers, a compressed data set."""
    path = tmp_path / "a.h5"
    with write_hdf5(path, {"name": "some", "list": ["x", "y"], "noise": np.float64(0.1)}, "probes") as file:
        file["images"] = np.arange(200, dtype=np.float32)
        file.create_dataset("layers", data=["input", "output"], dtype=h5py.string_dtype())
        file.create_dataset("packed", data=np.zeros((64, 8)), compression="gzip", chunks=(8, 8))
    return path


def read_all(path):
    with open_hdf5(path, "probes") as file:
        file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)


def test_every_byte_is_under_a_digest(path):
    whole = path.read_bytes()
    moments = random.Random(0)
    # All of the head, in which the digests are, and bytes of all the rest.
    places = [*range(200), *(moments.randrange(len(whole)) for _ in range(300))]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << moments.randrange(8))]) + whole[place + 1 :])
        with pytest.raises(FileError, match=r"a\.h5 is .*delete it and run again"):
            read_all(path)
    path.write_bytes(whole)
    read_all(path)


def test_a_file_with_a_part_missing_or_added_is_refused(path):
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match="delete it and run again"):
            read_all(path)
    for other in (whole + b"\0", whole[:512] + bytes(len(whole) - 512), whole + whole):
        path.write_bytes(other)
        with pytest.raises(FileError, match="delete it and run again"):
            read_all(path)


def test_a_file_that_changed_after_it_was_read_is_read_again(path):
    read_all(path)
    with h5py.File(path, "r+") as file:
        file["images"][3] = -1
    with pytest.raises(FileError, match="not those that were written"):
        read_all(path)


def test_other_programs_read_the_files(path):
    with h5py.File(path) as file:
        assert file.userblock_size in (0, 512)
        assert file.attrs["name"] == "some"
        assert file["images"][199] == 199
    assert path.read_bytes().startswith(b"relstab 1 512 ")
    assert read_attributes(path) == {"name": "some", "list": ["x", "y"], "noise": 0.1}


def test_the_heap_that_hdf5_reads_for_ever_is_never_read(tmp_path):
    """A heap of names in which one bit is flipped ends in a loop inside HDF5 2.0, which no signal of Python ends."""
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layer", data=["input", "output"], dtype=h5py.string_dtype())
    with pytest.raises(FileError, match=r"no digest at its head.*delete it and run again"):
        read_all(path)


def test_a_file_of_another_kind_is_named(path):
    with pytest.raises(FileError, match=r"a\.h5 .*expected a file of the kind 'network', got 'probes'"):
        read_attributes(path, "network")
    with pytest.raises(FileError, match="expected a file of the kind 'network', got 'probes'"), open_hdf5(path, "network"):
        pass
    with pytest.raises(FileError, match=r"a\.h5 lacks a part .*delete it"), open_hdf5(path) as file:
        file["nothing"]


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    for path in (tmp_path / "pipe.h5", "/dev/zero", tmp_path):
        with pytest.raises(FileError, match="no regular file"):
            read_attributes(path)


@pytest.mark.parametrize("kind", ["link", "storage", "virtual"])
def test_parts_in_other_files_are_not_followed(tmp_path, kind):
    with write_hdf5(tmp_path / "other.h5", {}) as file:
        file["x"] = np.zeros(4)
    with write_hdf5(tmp_path / "a.h5", {}) as file:
        if kind == "link":
            file["x"] = h5py.ExternalLink("other.h5", "/x")
        elif kind == "storage":
            file.create_dataset("x", (4,), "f8", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (4,))
            file.create_virtual_dataset("x", layout)
    with pytest.raises(FileError, match="another file"), open_hdf5(tmp_path / "a.h5"):
        pass


CODE = """
import resource, sys, signal
from relstab.files.hdf5 import write_hdf5
import numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    with write_hdf5(sys.argv[1], {}) as file:
        for number in range(50):
            file.create_dataset(f"{number}/x", data=np.random.rand(500), compression="gzip", chunks=(100,))
except OSError as error:
    sys.exit(f"{error.errno}: {error}")
"""


@pytest.mark.parametrize("limit", [0, 512, 3000, 50_000, 100_000])
def test_a_full_disk_gives_one_sentence(path, limit):
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", CODE, path, str(limit)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"{errno.EFBIG}: ")
    assert "cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.h5"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit


# What a run planned.


def made(results, name, noise, options):
    """A file of a run, as a job makes it."""
    from relstab.files.hdf5 import planned_as

    path = results / name
    with planned_as(plan_of("probes", {"noise": noise}, options, path, results)), write_hdf5(path, {}, "probes") as file:
        file["x"] = [1.0]
    return path


def test_a_file_under_anothers_name_is_refused_with_both(tmp_path):
    one, two = (made(tmp_path, f"probes/some/noise{noise}.h5", noise, {"cutoff": 3}) for noise in ("0", "10"))
    check_input(one, tmp_path)
    one.write_bytes(two.read_bytes())
    with pytest.raises(FileError, match=r"expected the file probes/some/noise0.h5, got probes/some/noise10.h5"):
        check_input(one, tmp_path)
    check_input("/elsewhere/file.h5", tmp_path)


def test_a_table_that_was_edited_is_refused(tmp_path):
    table = tmp_path / "tables" / "networks.csv"
    table.parent.mkdir()
    table.write_text("a,b\n1,2\n3,4\n")
    check_input(table, tmp_path)  # the user's own
    record(table, tmp_path, plan_of("table_networks", {}, {}, table, tmp_path))
    check_input(table, tmp_path)
    for text in ("a,b\n1,2\n", "a,b\n1,2\n3,4\n3,4\n", "a,b\n1,2\n3,5\n"):
        table.write_text(text)
        with pytest.raises(FileError, match=r"networks.csv was changed after the run wrote it: delete it and run again"):
            check_input(table, tmp_path)
    other = plan_of("table_history", {}, {}, tmp_path / "tables/history.csv", tmp_path)
    record(table, tmp_path, other)
    with pytest.raises(
        FileError, match=r"expected the record of tables/networks.csv, got that of tables/history.csv: delete both"
    ):
        check_input(table, tmp_path)
    (tmp_path / ".made/tables/networks.csv.json").write_text("{")
    with pytest.raises(FileError, match=r"networks.csv.json is damaged: delete it"):
        check_input(table, tmp_path)


def test_files_of_another_config_are_found_wherever_the_folder_is(tmp_path):
    results = tmp_path / "results"
    for noise, cutoff in (("0", 3), ("10", 4)):
        made(results, f"probes/some/noise{noise}.h5", noise, {"cutoff": cutoff})
    foreign = results / "datasets" / "old.h5"
    foreign.parent.mkdir()
    foreign.write_bytes(b"\x89HDF")
    gone = made(results, "probes/some/noise30.h5", "30", {"cutoff": 3})

    def today(rule, wildcards):
        return {"probes": {"0": {"cutoff": 3}, "10": {"cutoff": 3}}[wildcards["noise"]]}[rule]

    assert gone.exists()
    assert differing(results, today) == ([f"{results}/probes/some/noise10.h5"], [str(foreign)])
    renamed = results.rename(tmp_path / "renamed")
    assert differing(renamed, today)[0] == [f"{renamed}/probes/some/noise10.h5"]


def test_outputs_are_no_older_than_their_inputs(tmp_path):
    one, two = tmp_path / "in", tmp_path / "out"
    for file in (one, two):
        file.write_text("")
    os.utime(one, (4e9, 4e9))
    give_time_of_inputs([str(two)], [str(one), str(tmp_path / "none")])
    assert two.stat().st_mtime == 4e9
