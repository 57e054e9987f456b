import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster import reason_to_skip, start_cluster, wait_for

pytestmark = pytest.mark.skipif(bool(reason_to_skip(accounting=False)), reason=reason_to_skip(accounting=False))


def processes_of(folder: Path) -> list[str]:
    """Names of the processes of a cluster, jobs included: the command line or the environment of each names the folder."""
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                names.append(process.name())
    return names


def test_nothing_is_left_of_a_cluster_or_its_jobs(tmp_path: Path) -> None:
    with start_cluster(tmp_path / "c", accounting=False) as cluster:
        cluster.submit("setsid sleep 600 & setsid sleep 601")
        wait_for(lambda: processes_of(tmp_path).count("sleep") == 2, 20, lambda: f"sleep twice in {processes_of(tmp_path)}")
    assert processes_of(tmp_path) == []


def test_a_cluster_ends_with_the_tests_that_were_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from cluster import start_cluster
with start_cluster(Path({str(tmp_path / "c")!r}), accounting=False) as cluster:
    cluster.wait_for_state(cluster.submit("setsid sleep 600"), "RUNNING")
    print("ready", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout
        assert tests.stdout.readline() == "ready\n"
        assert processes_of(tmp_path / "c")
        tests.kill()
    wait_for(lambda: not processes_of(tmp_path / "c"), 20, lambda: f"end of {processes_of(tmp_path / 'c')}")


def test_a_cluster_that_does_not_start_shows_its_logs(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"--- (slurmctld|n1)\.log\n(.*\n)*.*Can't find plugin for select/nonsense"),
        start_cluster(tmp_path / "c", accounting=False, extra=["SelectType=select/nonsense"]),
    ):
        pass
    assert processes_of(tmp_path / "c") == []
