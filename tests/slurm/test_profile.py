"""The workflow on a cluster, as a user starts it there: `snakemake --profile slurm` in a checkout."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from cluster import ACCOUNT, NODES, Cluster, Job, reason_to_skip, start_cluster, wait_for
from helpers import FEW, FEW_TARGETS, ROOT, assert_same_results, few_networks, run

pytestmark = pytest.mark.skipif(bool(reason_to_skip(accounting=False)), reason=reason_to_skip(accounting=False))

SMOKE = "configs/smoke.yaml"
# Two networks that take long enough to be disturbed, and what they need.
TWO_NETWORKS = {
    "results": "results/two",
    "device": "cpu",
    "data": {"train_images": 500, "test_images": 200},
    "architectures": ["lenet"],
    "noise": [0, 10],
    "probes": {"images": 60},
    "seeds": 1,
    "recipes": {"lenet": {"epochs": 600}},
    "checkpoint_minutes": 0.02,
    "scale_detection": {"simple": dict.fromkeys(("task1_stride1", "task1_strided", "task2_stride1", "task2_strided"))},
}
TABLE = "results/two/tables/networks.csv"
# Jobs that have ended are looked at when the run is over, which may be later than SLURM's five minutes.
REMEMBER = ["MinJobAge=3600"]


@pytest.fixture(scope="module")
def clean_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Without accounting."""
    with start_cluster(tmp_path_factory.mktemp("slurm"), accounting=False, memory=16000, extra=REMEMBER) as cluster:
        yield cluster


def new_checkout(folder: Path) -> Path:
    """A clone as a user has it, to edit, with what is not committed yet: results name the commit, and whether it was edited."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    no_caches = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in ("workflow", "src", "envs", "profiles", "slurm", "configs"):
        shutil.copytree(ROOT / part, folder / part, ignore=no_caches, dirs_exist_ok=True)
    for file in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / file, folder)
    # The GPUs of these nodes are names only: jobs ask for them and compute on the CPU, as the config says.
    with (folder / SMOKE).open("a") as file:
        file.write("device: cpu\n")
    profile = folder / "slurm/config.yaml"
    profile.write_text(profile.read_text().replace("# gpu_model: a100", "gpu: 1"))
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return new_checkout(tmp_path / "checkout")


def environment(cluster: Cluster) -> dict[str, str]:
    """The plugin takes SLURM_CONF away from its job steps, which find the cluster by this srun instead."""
    folder = cluster.folder / "bin"
    folder.mkdir(exist_ok=True)
    srun = folder / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={cluster.environment["SLURM_CONF"]} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), cluster.environment["PATH"]])
    return {**cluster.environment, "PATH": path}


# Snakemake's command line, which asks for the states of jobs each second: the jobs are short here. The plugin would wait 10
# seconds longer after each query in which no job has ended.
SNAKEMAKE = """
import asyncio
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

RemoteExecutor.sleep = lambda _executor: asyncio.sleep(1)
main()
"""


def on_cluster(*arguments: str, config: str = SMOKE) -> list[str]:
    return [sys.executable, "-c", SNAKEMAKE, *arguments, "--profile", "slurm", "--configfile", config]


def start(cluster: Cluster, checkout: Path, log: Path, *arguments: str, config: str = SMOKE) -> subprocess.Popen[str]:
    with log.open("w") as file:
        return subprocess.Popen(
            on_cluster(*arguments, config=config),
            cwd=checkout,
            env=environment(cluster),
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )


def output_of(cluster: Cluster, checkout: Path, *arguments: str, config: str = SMOKE, timeout: float = 120) -> tuple[int, str]:
    done = subprocess.run(
        on_cluster(*arguments, config=config),
        cwd=checkout,
        env=environment(cluster),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def ended(cluster: Cluster) -> list[Job]:
    """All jobs, once none is running or leaving its node."""
    jobs = cluster.jobs()
    return [] if any(job.state in ("PENDING", "RUNNING", "COMPLETING") for job in jobs) else jobs


def edit_profile(checkout: Path, **values: str) -> None:
    """Edit the profile as docs/cluster.md says: remove the comment sign of a line, and enter a name."""
    profile = checkout / "slurm" / "config.yaml"
    text = profile.read_text()
    for key, value in values.items():
        placeholder = f"# {key}: \"'YOUR_{key.removeprefix('slurm_').upper()}'\""
        assert text.count(placeholder) == 1
        text = text.replace(placeholder, f"{key}: \"'{value}'\"")
    profile.write_text(text)


def ask_with_gres(checkout: Path) -> None:
    """Edit the profile for a cluster that refuses --gpus."""
    profile = checkout / "slurm" / "config.yaml"
    text = profile.read_text().replace("    gpu: 1\n", "    gpu: 0\n    gres: \"'gpu:1'\"\n")
    profile.write_text(text)


@pytest.fixture(scope="module")
def small_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nodes of two CPUs, with accounting where this machine can."""
    accounting = not reason_to_skip(accounting=True)
    with start_cluster(tmp_path_factory.mktemp("slurm"), accounting, memory=16000, extra=REMEMBER) as cluster:
        yield cluster


def test_smoke_config(small_cluster, checkout, finished_few):
    """After the edits that docs/cluster.md names, on a cluster with small nodes, the results are those of one machine."""
    cluster = small_cluster
    (checkout / FEW).write_text(few_networks() + "device: cpu\n")
    edit_profile(checkout, slurm_partition="other", **({"slurm_account": ACCOUNT} if cluster.accounting else {}))
    ask_with_gres(checkout)
    few = ("--jobs", "5", "--slurm-status-command", "sacct" if cluster.accounting else "squeue")
    status, said = output_of(cluster, checkout, *FEW_TARGETS, *few, config=FEW, timeout=900)
    assert status == 0, said[-5000:]
    jobs = wait_for(lambda: ended(cluster), 60, "the end of all jobs")
    assert "Nothing to be done" in output_of(cluster, checkout, *FEW_TARGETS, "--dry-run", config=FEW)[1]
    if cluster.accounting:
        wait_for(
            lambda: set(cluster.run("sacct", "--noheader", "--allocations", "--format=State").split()) == {"COMPLETED"},
            20,
            "all jobs are completed in sacct",
        )
    assert_same_results(finished_few / "results/smoke", checkout / "results/smoke", part=True)
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert {job.nodes for job in jobs} == set(NODES)
    assert {job.partition for job in jobs} == {"other"}
    assert {job.account for job in jobs} == {ACCOUNT} or not cluster.accounting
    # One CPU is enough for each job, also for groups.
    assert {re.search(r"cpu=(\d+)", job.tres)[1] for job in jobs} == {"1"}
    # Names say what a job is; all have the run's identifier as their comment.
    names = sorted(job.name for job in jobs)
    assert len({job.comment for job in jobs}) == 1
    assert "train_mnist5k_lenet_noise10_seed0" in names
    # The measurements of each network were one job; so were tables and figures of each kind, noise levels, and probes.
    trained = {name.removeprefix("train_") for name in names if name.startswith("train_") and name.endswith("_seed0")}
    measured = {name.removeprefix("measured_") for name in names if name.startswith("measured_")}
    assert trained == measured
    assert trained == {"mnist5k_lenet_noise0_seed0", "mnist5k_lenet_noise10_seed0", "pairs_lenet_noise0_seed0"}
    for group in ("noisy_tests", "probes", "tables", "figures", "scale_tables"):
        assert names.count(group) == 1
    # All jobs that run networks got a GPU, asked for with --gres; the others asked for none.
    with_gpu = ("train_", "ensemble_sensitivity_", "measured_")
    for job in jobs:
        assert job.gpus == job.name.startswith(with_gpu), job
        assert not job.gpus_of_job, "asked for with --gpus"
    logs = list((checkout / "results/smoke/logs/train").rglob("*.log"))
    assert len(logs) == len(trained)
    assert not list((checkout / "results/smoke").glob(".run-*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU here")
def test_a_gpu_that_torch_does_not_find_stops_the_job(small_cluster, checkout):
    """And does not train for days on the one CPU beside it."""
    (checkout / SMOKE).write_text((checkout / SMOKE).read_text().replace("device: cpu", "device: auto"))
    network = "results/smoke/networks/mnist5k/lenet/noise0/seed0.h5"
    status, said = output_of(small_cluster, checkout, network, "--retries", "0", timeout=300)
    assert status != 0
    log = (checkout / "results/smoke/logs/train/mnist5k/lenet/noise0/seed0.log").read_text()
    assert "ValueError: this job (CUDA_VISIBLE_DEVICES=0" in log, said
    assert "or compute on the CPU (config.yaml: device: cpu)" in log


def test_refusals_and_numbers_in_place_of_names(small_cluster, checkout):
    """SLURM's own sentence is shown for a group of jobs, which Snakemake alone would not show."""
    file = "results/smoke/tables/scale_detection_samples.csv"
    status, said = output_of(small_cluster, checkout, file, "--set-threads", "table_scale_detection_samples=3", "--retries", "0")
    assert status != 0
    assert "scale_tables: SLURM sbatch failed. The error message was 'sbatch: error: " in said
    assert "Requested node configuration is not available" in said
    status, said = output_of(small_cluster, checkout, file, "--default-resources", "slurm_account=42")
    assert status != 0
    assert "expected slurm_account of rule table_scale_detection_samples to be text, got 42" in said
    assert "Traceback" not in said


@pytest.fixture
def two_networks(checkout: Path) -> str:
    (checkout / "two.yaml").write_text(yaml.safe_dump(TWO_NETWORKS))
    return "two.yaml"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "two.yaml").write_text(yaml.safe_dump(TWO_NETWORKS))
    run(folder, TABLE, "--cores", "2", config=folder / "two.yaml")
    return folder


def training(cluster: Cluster, noise: str, restarts: int = 0, but: str = "") -> Job | None:
    """The job that trains the network at a noise level, while it runs, after so many restarts; not a certain other one."""
    here = [job for job in cluster.jobs() if job.name == f"train_mnist5k_lenet_noise{noise}_seed0"]
    return next((job for job in here if job.state == "RUNNING" and job.restarts == restarts and job.id != but), None)


def checkpoints(checkout: Path, noise: str) -> list[Path]:
    return list(checkout.glob(f"results/two/networks/mnist5k/lenet/noise{noise}/seed0.checkpoints/*/step*.h5"))


def memory_of(job: Job) -> int:
    """MB that a job asked for."""
    return int(re.search(r"mem=(\d+)M", job.tres)[1])


def left_states(cluster: Cluster, numbers: set[str]) -> set[str]:
    return {job.state for job in cluster.jobs() if job.id in numbers}


def test_what_runs_out_of_memory_gets_more(checkout, two_networks, tmp_path_factory):
    file = "results/two/datasets/mnist5k.h5"
    little = ("--set-resources", "prepare_dataset:mem_mb=200 * attempt ** 3")
    with start_cluster(tmp_path_factory.mktemp("slurm"), accounting=False, memory_kill=True) as cluster:
        status, said = output_of(cluster, checkout, file, *little, config=two_networks)
        assert status == 0, said
        first, second = sorted(cluster.jobs(), key=lambda job: int(job.id))
    assert (first.state, memory_of(first)) == ("FAILED", 200)
    assert (second.state, memory_of(second)) == ("COMPLETED", 1600)
    assert (checkout / file).exists()


def test_disturbed_and_edited_while_it_runs(clean_cluster, checkout, two_networks, undisturbed, tmp_path):
    """Code and config are edited while jobs wait, another run starts, a job is cancelled, a node breaks, the run is killed."""
    cluster = clean_cluster
    log = tmp_path / "run.log"
    for node in NODES:
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    process = start(cluster, checkout, log, TABLE, config=two_networks)
    code = ["Snakefile", "workflow/scripts/train.py", "workflow/rules/networks.smk", "src/relstab/training/train.py"]
    edited = ["config.yaml", two_networks, *code]
    before = {file: (checkout / file).read_text() for file in edited}
    try:
        waiting = wait_for(cluster.jobs, 60, lambda: log.read_text())
        assert [job.state for job in waiting] == ["PENDING"]
        status, said = output_of(cluster, checkout, TABLE, config=two_networks)
        assert status != 0
        assert f"another run is writing to results/two (process {process.pid} on " in said
        # Nothing is made yet. All that follows reads none of this.
        (checkout / two_networks).write_text(yaml.safe_dump({**TWO_NETWORKS, "recipes": {"lenet": {"epochs": 3}}}))
        (checkout / "config.yaml").write_text(before["config.yaml"].replace("seed: 0", "seed: 1"))
        for file in code:
            (checkout / file).write_text("raise SystemExit('edited')\n" + before[file])
        for node in NODES:
            cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
        both = wait_for(
            lambda: (
                process.poll() is None
                and all(checkpoints(checkout, noise) for noise in ("0", "10"))
                and [training(cluster, noise) for noise in ("0", "10")]
            ),
            300,
            lambda: log.read_text(),
        )
        cancelled, displaced = both
        assert cancelled.nodes != displaced.nodes, "one GPU a node"
        well = {"RUNNING", "COMPLETING", "COMPLETED"}
        assert {job.state for job in cluster.jobs()} <= well, "the other run touched this one"
        cluster.cancel(cancelled.id)
        cluster.down(displaced.nodes)
        # Both want the GPU of the node that is left; the other node comes back once one of them has it.
        running: dict[str, Job] = {}

        def both_run_again() -> bool:
            for noise, which in (("10", {"restarts": 1}), ("0", {"but": cancelled.id})):
                if noise not in running and (job := training(cluster, noise, **which)):
                    if not running:
                        assert job.nodes != displaced.nodes
                        cluster.resume(displaced.nodes)
                    running[noise] = job
            return len(running) == 2

        wait_for(both_run_again, 240, lambda: log.read_text())
        moved, again = running["10"], running["0"]
        assert moved.id == displaced.id
        assert memory_of(again) == 2 * memory_of(cancelled) > 8000, "an attempt more is as much memory more"
        process.kill()
        process.wait()
        for file in edited:
            (checkout / file).write_text(before[file])
        process = start(cluster, checkout, log, TABLE, config=two_networks)
        left = {moved.id, again.id}
        wait_for(lambda: left_states(cluster, left) <= {"CANCELLED", "COMPLETED"}, 60, "the end of the jobs of a killed run")
        assert "CANCELLED" in left_states(cluster, left)
        assert process.wait(timeout=300) == 0, log.read_text()[-5000:]
    finally:
        process.kill()
    for noise in ("0", "10"):
        assert (
            "continued from the checkpoint"
            in (checkout / f"results/two/logs/train/mnist5k/lenet/noise{noise}/seed0.log").read_text()
        )
    assert_same_results(undisturbed / "results/two", checkout / "results/two")
    assert [job.gpus_of_job for job in both] == [True, True], "asked for with --gpus"
    assert "Nothing to be done" in output_of(cluster, checkout, TABLE, "--dry-run", config=two_networks)[1]
