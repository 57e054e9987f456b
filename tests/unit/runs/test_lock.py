import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from relstab.runs import lock as run_lock
from relstab.runs.lock import FolderInUseError, RunLock

from helpers import wait_for

HOLD = """
import sys, time
from relstab.runs.lock import RunLock
lock = RunLock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that has no file locks, as some network file systems."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def note_of(folder, **changes):
    """What a run on another machine left, or keeps, in the folder."""
    note = {"host": "another", "pid": 1, "run": "abc", "since": "2026-01-01 00:00:00", **changes}
    (folder / ".lock").write_text(json.dumps(note))


def test_one_process_at_a_time(tmp_path, elsewhere):
    with pytest.raises(FolderInUseError, match=rf"process {elsewhere.pid} on .*results\)$"):
        RunLock(tmp_path)
    elsewhere.send_signal(signal.SIGKILL)
    elsewhere.wait()
    RunLock(tmp_path).release()  # a killed process holds nothing


def test_what_was_released_is_free(tmp_path):
    first = RunLock(tmp_path)
    with pytest.raises(FolderInUseError):
        RunLock(tmp_path)
    first.release()
    first.release()
    RunLock(tmp_path).release()


@pytest.mark.usefixtures("no_locks")
def test_without_file_locks_one_process_of_a_machine_at_a_time(tmp_path, elsewhere):
    with pytest.raises(FolderInUseError, match=f"process {elsewhere.pid} on"):
        RunLock(tmp_path)
    elsewhere.kill()
    elsewhere.wait()
    RunLock(tmp_path).release()


@pytest.mark.parametrize("locks", [True, False])
def test_a_run_on_another_machine_holds_the_folder_while_it_updates_its_note(tmp_path, locks, request):
    """File locks may be kept on each machine: the note counts as well."""
    if not locks:
        request.getfixturevalue("no_locks")
    note_of(tmp_path)
    with pytest.raises(FolderInUseError, match="process 1 on another, since 2026-01-01 00:00:00"):
        RunLock(tmp_path)
    long_ago = time.time() - run_lock._STALE - 1
    os.utime(tmp_path / ".lock", (long_ago, long_ago))
    lock = RunLock(tmp_path)
    assert json.loads((tmp_path / ".lock").read_text())["run"] == lock.note["run"]
    lock.release()
    assert (tmp_path / ".lock").read_text() == ""


@pytest.mark.parametrize("locks", [True, False])
def test_a_file_dated_ahead_does_not_refuse_for_ever(tmp_path, locks, request):
    if not locks:
        request.getfixturevalue("no_locks")
    tomorrow = time.time() + 86400
    note_of(tmp_path)
    os.utime(tmp_path / ".lock", (tomorrow, tomorrow))
    RunLock(tmp_path, planned=time.time()).release()
    os.utime(tmp_path / ".lock", (tomorrow, tomorrow))
    RunLock(tmp_path, planned=time.time()).release()


def test_a_plan_older_than_what_another_run_made_is_refused(tmp_path):
    RunLock(tmp_path).release()
    planned = (tmp_path / ".lock").stat().st_mtime - 1
    with pytest.raises(FolderInUseError, match="while this run was being planned: start it again"):
        RunLock(tmp_path, planned)
    RunLock(tmp_path, planned + 2).release()
    RunLock(tmp_path / "new", 0).release()  # nobody wrote there


def test_a_run_updates_the_date_of_its_note(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_INTERVAL", 0.05)
    lock = RunLock(tmp_path)
    os.utime(tmp_path / ".lock", (0, 0))
    wait_for(lambda: abs(time.time() - (tmp_path / ".lock").stat().st_mtime) < 60)
    lock.release()


@pytest.mark.usefixtures("no_locks")
def test_of_two_without_file_locks_that_start_together_one_runs(tmp_path, monkeypatch):
    """The other's note came last."""
    monkeypatch.setattr(time, "sleep", lambda _: note_of(tmp_path))
    with pytest.raises(FolderInUseError, match="process 1 on another"):
        RunLock(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "another"'])
def test_an_unreadable_note_is_ignored(tmp_path, text):
    (tmp_path / ".lock").write_text(text)
    RunLock(tmp_path).release()


def test_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"):
        RunLock(tmp_path)
