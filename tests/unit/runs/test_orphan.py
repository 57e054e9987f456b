"""Jobs whose run was killed."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from relstab.files.hdf5 import atomic_path
from relstab.runs.orphan import RunEndedError, belong_to_this_process, discard_scripts, run_has_ended

from helpers import has_ended, wait_for

RUN = """
import subprocess, sys, time
from relstab.runs.orphan import belong_to_this_process
belong_to_this_process()
job = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
print(job.pid, flush=True)
time.sleep(60)
"""

JOB = """
import signal, sys, time
from pathlib import Path
from relstab.files.hdf5 import atomic_path
from relstab.runs.orphan import ends_with_run
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with ends_with_run(grace=1), atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("other")
    Path(sys.argv[1] + ".started").touch()
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["obedient", "deaf"])
def test_a_job_ends_when_its_run_is_killed(tmp_path, manner):
    path = tmp_path / "result"
    path.write_text("first")
    run = subprocess.Popen([sys.executable, "-c", RUN, JOB, path, manner], stdout=subprocess.PIPE, text=True)
    job = psutil.Process(int(run.stdout.readline()))
    wait_for((tmp_path / "result.started").exists)
    run.send_signal(signal.SIGKILL)  # and it stays a zombie until it is waited for
    wait_for(lambda: has_ended(job))
    run.wait()
    assert path.read_text() == "first"


def test_nothing_is_published_once_the_run_has_ended(tmp_path, monkeypatch):
    path = tmp_path / "result"
    monkeypatch.setenv("RELSTAB_RUN", "")
    belong_to_this_process()
    belong_to_this_process()
    own = os.environ["RELSTAB_RUN"]
    assert "," not in own
    assert not run_has_ended()
    with atomic_path(path) as temporary:
        temporary.write_text("first")
    host, pid, born = own.rsplit(":", 2)
    ended = f"{host}:{pid}:{float(born) - 100}"  # the number of a process that was used again
    monkeypatch.setenv("RELSTAB_RUN", f"{ended},{own}")
    assert run_has_ended()
    with pytest.raises(RunEndedError, match="result is not written, since the run that planned it has ended"):  # noqa: SIM117
        with atomic_path(path) as temporary:
            temporary.write_text("second")
    assert path.read_text() == "first"
    with atomic_path(path, only_in_run=False) as temporary:  # a checkpoint
        temporary.write_text("third")
    belong_to_this_process(is_submitted=True)
    assert not run_has_ended()
    for other in (f"elsewhere:{pid}:{born}", "", "damaged"):
        monkeypatch.setenv("RELSTAB_RUN", other)
        assert not run_has_ended()


def test_scripts_of_jobs_that_were_killed_long_ago_go(tmp_path):
    for name, age in {"tmpold.py": 2 * 24 * 3600, "tmpnew.py": 60, "mine.py": 2 * 24 * 3600}.items():
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    discard_scripts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["mine.py", "tmpnew.py"]
    discard_scripts(tmp_path / "none")
