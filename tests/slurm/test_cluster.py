import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster import ACCOUNT, NODES, Cluster, CommandError, reason_to_skip, start_cluster, wait_for

pytestmark = pytest.mark.skipif(bool(reason_to_skip(accounting=False)), reason=reason_to_skip(accounting=False))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with start_cluster(tmp_path_factory.mktemp("slurm"), accounting=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster_with_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := reason_to_skip(accounting=True):
        pytest.skip(reason)
    with start_cluster(tmp_path_factory.mktemp("slurm"), accounting=True) as cluster:
        yield cluster


def processes_of(folder: Path) -> list[str]:
    """Names of the processes of a cluster, jobs included: the command line or the environment of each names the folder."""
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                names.append(process.name())
    return names


@pytest.mark.parametrize("node", NODES)
def test_each_node_runs_commands(cluster: Cluster, node: str) -> None:
    assert cluster.run("srun", f"--nodelist={node}", "sh", "-c", "echo $SLURMD_NODENAME").strip() == node


def test_a_command_that_fails_says_why(cluster: Cluster) -> None:
    with pytest.raises(CommandError, match="invalid partition"):
        cluster.submit("true", "--partition=nowhere")


@pytest.mark.parametrize("option", ["--gpus=1", "--gres=gpu:1"])
def test_jobs_see_the_gpu_they_asked_for(cluster: Cluster, option: str) -> None:
    show = "echo gpu ${CUDA_VISIBLE_DEVICES-none}"
    assert cluster.run("srun", option, "sh", "-c", show) == "gpu 0\n"
    assert cluster.run("srun", "sh", "-c", show) == "gpu none\n"


def test_a_gpu_has_one_job_at_a_time(cluster: Cluster) -> None:
    first, second, third = (cluster.submit("sleep 60", "--gpus=1") for _ in range(3))
    places = {cluster.wait_for_state(job, "RUNNING").nodes for job in (first, second)}
    assert places == set(NODES)
    waiting = cluster.wait_for_state(third, "PENDING")
    assert waiting.gpus == 1
    cluster.cancel(first)
    cluster.wait_for_state(third, "RUNNING")
    for job in (second, third):
        cluster.cancel(job)
    for job in (first, second, third):
        assert cluster.wait_for_state(job, "CANCELLED").gpus == 1


def test_jobs_of_a_node_taken_down_run_again(cluster: Cluster) -> None:
    job = cluster.submit("sleep 60")
    node = cluster.wait_for_state(job, "RUNNING").nodes
    cluster.down(node)
    assert cluster.wait_for_state(job, "PENDING").restarts == 1
    assert cluster.wait_for_state(job, "RUNNING").nodes == ({*NODES} - {node}).pop()
    cluster.cancel(job)
    cluster.resume(node)


@pytest.mark.parametrize("node", NODES)
def test_nodes_come_back_each_time(cluster: Cluster, node: str) -> None:
    for end in (cluster.down, cluster.crash, cluster.down):
        end(node)
        cluster.resume(node)
        assert cluster.run("srun", f"--nodelist={node}", "sh", "-c", "echo $SLURMD_NODENAME").strip() == node


def test_jobs_of_a_node_that_crashed_fail_where_they_may_not_run_again(cluster: Cluster) -> None:
    job = cluster.submit("sleep 60", "--no-requeue", "--nodelist=n2")
    cluster.wait_for_state(job, "RUNNING")
    cluster.crash("n2")
    cluster.down("n2")
    assert cluster.wait_for_state(job, "NODE_FAIL").reason == "NodeDown"
    cluster.resume("n2")


def test_without_accounting_there_is_no_sacct(cluster: Cluster) -> None:
    with pytest.raises(CommandError, match="accounting storage is disabled"):
        cluster.run("sacct")


def test_accounting_remembers_jobs(cluster_with_accounting: Cluster) -> None:
    cluster = cluster_with_accounting
    job = cluster.submit("true", "--gpus=1")
    assert cluster.wait_for_state(job, "COMPLETED").account == ACCOUNT
    query = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=JobID,State,Account")
    wait_for(
        lambda: cluster.run(*query).strip() == f"{job}|COMPLETED|{ACCOUNT}", 20, lambda: f"job in sacct: {cluster.run(*query)}"
    )


def test_two_clusters_at_a_time_and_nothing_left(cluster: Cluster, tmp_path: Path) -> None:
    with start_cluster(tmp_path / "c", accounting=False, partitions=["only"], cpus=1) as second:
        second.submit("setsid sleep 600 & setsid sleep 601")
        wait_for(lambda: processes_of(tmp_path).count("sleep") == 2, 20, lambda: f"sleep twice in {processes_of(tmp_path)}")
        assert {job.partition for job in second.jobs()} == {"only"}
    assert processes_of(tmp_path) == []
    assert set(cluster.nodes()) == set(NODES)


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
        pytest.raises(RuntimeError, match=r"--- slurmctld.log\n(.*\n)*.*Can't find plugin for select/nonsense"),
        start_cluster(tmp_path / "c", accounting=False, extra=["SelectType=select/nonsense"]),
    ):
        pass
    assert processes_of(tmp_path / "c") == []


def test_a_cluster_with_a_long_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long"), start_cluster(tmp_path / ("c" * 100), accounting=False):
        pass
