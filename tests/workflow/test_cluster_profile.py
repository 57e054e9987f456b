"""What the cluster profile asks for, as far as it can be told without a cluster; tests/slurm runs it on one."""

import contextlib
import os
import re
import subprocess
from types import SimpleNamespace
from unittest import mock

import h5py
import pytest
import torch
import yaml

from relstab.files.hdf5 import open_hdf5, write_hdf5
from relstab.training.checkpoint import Checkpoint, Checkpoints

from helpers import ROOT, run

PROFILE = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
# Rules whose jobs are in no group, and why.
ALONE = {
    "prepare_dataset": "one job",
    "pair_dataset": "one job",
    "pair_probes": "one job",
    "homogeneous_sensitivity": "one job",
    "imagenet_images": "one job",
    "imagenet_probes": "one job",
    "report_page": "one job, after all others",
    "train": "long, and a group is repeated as a whole",
    "train_ensemble": "long, each of its own memory",
    "ensemble_sensitivity": "few, each of its own memory",
    "imagenet_network": "few",
}


RULES = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))


def rules():
    tables = re.findall(r'^    "(\w+)": \(', RULES, flags=re.MULTILINE)  # one rule for each entry of TABLE_ENTRIES
    named = re.findall(r"^rule (\w+)|^ +use rule \w+ as (\w+)", RULES, flags=re.MULTILINE)
    return [*(rule or other for rule, other in named), *(f"table_{name}" for name in tables)]


def test_every_rule_is_submitted_as_suits_it():
    assert sorted([*PROFILE["groups"], *ALONE]) == sorted(rules())
    assert PROFILE["group-components"].keys() == set(PROFILE["groups"].values())


def with_gpu():
    blocks = re.split(r"^(?=rule )|^ +use rule \w+ as (?=\w+)", RULES, flags=re.MULTILINE)[1:]
    return {re.match(r"(?:rule )?(\w+)", block)[1] for block in blocks if re.search(r"^ +gpu=", block, flags=re.MULTILINE)}


def test_a_partition_for_gpus_is_that_of_all_rules_that_use_them(planners, tmp_path):
    # Jobs of one group have the same partition: filters are analysed in the job that measures the network.
    on_gpu_nodes = with_gpu() | {"spectra"}
    assert set(PROFILE["set-resources"]) == on_gpu_nodes
    text = (ROOT / "slurm/config.yaml").read_text()
    for line in ("slurm_partition: \"'YOUR_GPU_PARTITION'\"", "gpu_model: a100", "slurm_partition: \"'0042'\""):
        text = text.replace(f"# {line.replace('0042', 'YOUR_PARTITION')}", line)
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(text)
    said = planners.snakemake(tmp_path, "all", "--dry-run", "--profile", str(tmp_path / "profile"))
    asked = re.findall(r"^ *rule (\w+):\n(?:.*\n)*?.*slurm_partition=(\w+)", said, flags=re.MULTILINE)
    # The default run has no networks of torchvision, no sweep, and no networks that share a job.
    not_planned = {"imagenet_network", "sensitivity_sweep", "train_together"}
    assert {rule for rule, partition in asked if partition == "YOUR_GPU_PARTITION"} == on_gpu_nodes - not_planned
    assert {rule for rule, partition in asked if partition == "0042"} >= {"noisy_test", "prepare_dataset", "figure"}  # not 34


def resources(text):
    """Of each rule's first job in a dry run: memory (MB), time (minutes) and GPUs."""
    found = {}
    # Jobs of a group are indented.
    for _, rule, block in re.findall(r"^( *)(?:local)?rule (\w+):\n((?:\1    .*\n)+)", text, flags=re.MULTILINE):
        line = re.search(r"^ +resources: (.*)$", block, flags=re.MULTILINE)[1]
        asked = dict(entry.split("=", 1) for entry in line.split(", "))
        found.setdefault(rule, tuple(int(asked.get(key, 0)) for key in ("mem_mb", "runtime", "gpu")))
    return found


def test_each_attempt_asks_for_as_much_again(planners, tmp_path):
    plan = ["all", "--dry-run", "--profile", str(ROOT / "slurm")]
    first, third = (resources(planners.snakemake(tmp_path, *plan, "--attempt", attempt)) for attempt in ("1", "3"))
    assert first["train"] == (4000, 240, 1)
    assert first["spectra"] == (2000, 10, 0)
    del first["all"], third["all"]
    assert third == {rule: (3 * memory, 3 * minutes, gpus) for rule, (memory, minutes, gpus) in first.items()}


def test_gpus_are_asked_for_unless_the_device_is_the_cpu(planners, tmp_path):
    def planned_with_gpu(*arguments):
        said = resources(planners.snakemake(tmp_path, "all", "--dry-run", "--cores", "2", *arguments))
        return {rule for rule, (_, _, gpus) in said.items() if gpus}

    measuring = {"sensitivity", "shuffled_sensitivity", "sensitivity_over_training"}
    assert planned_with_gpu() == {"train", "train_ensemble", "ensemble_sensitivity", *measuring}
    assert planned_with_gpu("--config", "device=cpu") == set()


def test_jobs_of_a_killed_run_that_cannot_be_cancelled_are_reported_once(tmp_path):
    """There is no cluster here, and the results come from one."""
    left = tmp_path / "results/smoke/.run-0123"
    left.mkdir(parents=True)
    (left / "run").write_text("a-run")
    file = "results/smoke/tables/scale_detection_samples.csv"
    first = run(tmp_path, file, "--cores", "1", check=False)
    assert first.returncode != 0
    assert "jobs of a run that was killed may still be on the cluster: cancel the jobs that" in first.stdout + first.stderr
    assert not (tmp_path / file).exists()
    run(tmp_path, file, "--cores", "1")
    assert (tmp_path / file).exists()


@pytest.mark.parametrize(
    ("resources", "device"),
    [
        ({"gpu": 1}, "auto"),
        ({"gpu": 0}, "cpu"),
        ({}, "cpu"),
        ({"gpu": 0, "gres": "gpu:1"}, "auto"),
        ({"gres": "gpu:a100:2"}, "auto"),
        ({"gres": "shard:4"}, "auto"),
        ({"gres": "license:1"}, "cpu"),
    ],
)
def test_a_job_uses_the_gpu_that_it_asked_for(resources, device, monkeypatch):
    """With --gpus (resource gpu) or with --gres."""
    monkeypatch.syspath_prepend(ROOT / "workflow/scripts")
    import job

    names = []

    @contextlib.contextmanager
    def occupied_device(name, _jobs_per_gpu):
        names.append(name)
        yield torch.device("cpu")

    monkeypatch.setattr("relstab.runs.devices.occupied_device", occupied_device)
    config = {"threads": torch.get_num_threads(), "device": "auto", "jobs_per_gpu": 1}
    with job.device(SimpleNamespace(config=config, resources=resources)) as chosen:
        assert chosen == "cpu"
    assert names == [device]


@pytest.mark.parametrize(("device", "given", "found"), [("cuda:0", "", "out/.compiled"), ("cuda:0", "/x", "/x"), ("cpu", "", "")])
def test_kernels_compiled_for_a_gpu_are_kept_with_the_results(device, given, found, monkeypatch, tmp_path):
    """Unless the user says where."""
    monkeypatch.syspath_prepend(ROOT / "workflow/scripts")
    monkeypatch.chdir(tmp_path)
    import job

    monkeypatch.setattr("relstab.runs.devices.occupied_device", lambda *_: contextlib.nullcontext(torch.device(device)))
    with mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": given}):
        if not given:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        config = {"threads": torch.get_num_threads(), "device": "auto", "jobs_per_gpu": 1, "results": "out"}
        with job.device(SimpleNamespace(config=config, resources={"gpu": 1})):
            folder = os.getenv("TORCHINDUCTOR_CACHE_DIR", "")
    assert folder == (str(tmp_path / found) if found == "out/.compiled" else found)


def test_a_job_stops_where_torch_cannot_use_its_gpu(monkeypatch):
    """It does not fall back to the CPU, unless the job did not ask for a GPU, or the config says cpu."""
    monkeypatch.syspath_prepend(ROOT / "workflow/scripts")
    import job

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    config = {"threads": torch.get_num_threads(), "device": "auto", "jobs_per_gpu": 1}
    asked, without = {"gpu": 0, "gres": "shard:1"}, {"gpu": 0}
    with (
        pytest.raises(ValueError, match=r"this job \(CUDA_VISIBLE_DEVICES=0.*\) has a GPU, .*\(config.yaml: device: cpu\)"),
        job.device(SimpleNamespace(config=config, resources=asked)),
    ):
        pass
    for settings, resources in ((config, without), ({**config, "device": "cpu"}, asked)):
        with job.device(SimpleNamespace(config=settings, resources=resources)) as device:
            assert device == "cpu"


def test_memory_grows_with_the_data(planners, tmp_path):
    (tmp_path / "results/smoke/datasets").mkdir(parents=True)
    large = tmp_path / "results/smoke/datasets/mnist5k.h5"
    with large.open("wb") as file:
        file.truncate(10**9)
    said = planners.snakemake(tmp_path, "results/smoke/datasets/mnist5k/test_noise0.h5", "--dry-run", "--cores", "2")
    memory = resources(said)["noisy_test"][0]
    # 1 GB of uint8 in memory, as float32, with noise and clean
    assert 9000 < memory < 16000


def test_files_are_read_where_the_file_system_refuses_to_lock(tmp_path):
    """HDF5's lock cannot be had here, since another process has it: as on a file system that has none, opening must not fail."""
    with write_hdf5(tmp_path / "data.h5", {}) as file:
        file["numbers"] = [1, 2, 3]
    checkpoints = Checkpoints(tmp_path / "checkpoints", {})
    paths = [tmp_path / "data.h5", checkpoints.save(1, Checkpoint({"weights": torch.ones(3)}, {"step": 1}))]
    holders = [
        subprocess.Popen(["flock", "--exclusive", path, "sh", "-c", "echo held; sleep 600"], stdout=subprocess.PIPE)
        for path in paths
    ]
    try:
        for holder, path in zip(holders, paths, strict=True):
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(BlockingIOError, match="unable to lock file"):
                h5py.File(path, "r", locking=True)
        with open_hdf5(paths[0]) as file:
            assert file["numbers"][:].tolist() == [1, 2, 3]
        assert checkpoints.load().values == {"step": 1}
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
