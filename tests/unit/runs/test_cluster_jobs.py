import asyncio
import os
from pathlib import Path

import pytest

from relstab.runs.cluster import (
    ClusterError,
    cancel_jobs,
    choose_status_command,
    job_name,
    refusal,
    with_preempted_as_failed,
)


def test_names_say_what_a_job_is():
    wildcards = {"dataset": "mnist5k", "architecture": "lenet", "noise": "0.01", "seed": "0"}
    assert job_name("train", wildcards) == "train_mnist5k_lenet_noise0.01_seed0"
    assert job_name("train", {**wildcards, "subset": ""}) == job_name("train", wildcards)
    assert job_name("train", {"noise": "0.01", "subset": "_images64", "seed": "0"}) == "train_noise0.01_images64_seed0"
    assert job_name("pair_dataset", {}) == "pair_dataset"


def test_a_refusal_is_the_sentence_of_slurm():
    sentence = "SLURM sbatch failed. The error message was 'sbatch: error: CPU count per node can not be satisfied'."
    assert refusal(f"{sentence}\n    sbatch call:\n        sbatch --parsable ...\n") == sentence
    assert refusal("SLURM-job '7' failed, SLURM status is: 'TIMEOUT'.") == "SLURM-job '7' failed, SLURM status is: 'TIMEOUT'."


def settings(age, accounting):
    return f"Configuration data as of now\nAccountingStorageType   = {accounting}\nMinJobAge               = {age} sec\n"


def test_the_status_command_remembers_ended_jobs():
    assert choose_status_command(settings(300, "(null)")) == "squeue"
    assert choose_status_command(settings(60, "accounting_storage/slurmdbd")) == "sacct"
    assert choose_status_command("") == "squeue"  # scontrol failed
    with pytest.raises(ClusterError, match="got MinJobAge = 60 s and no accounting"):
        choose_status_command(settings(60, "accounting_storage/none"))


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Stand-ins for SLURM's programs, which note how they were called."""

    def make(**scripts: str) -> Path:
        for name, script in scripts.items():
            path = tmp_path / name
            path.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n{script}\n')
            path.chmod(0o755)
        return tmp_path / "calls"

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return make


def test_preempted_jobs_that_do_not_come_back_have_failed(programs):
    programs(squeue='case "$*" in *--jobs\\ 2*) echo 2 PENDING;; esac')

    async def states(command):
        assert command == "asked"
        return {"1": "PREEMPTED", "2": "PREEMPTED", "3": "RUNNING"}, 0.1

    answer, seconds = asyncio.run(with_preempted_as_failed(states)("asked"))
    assert answer == {"1": "FAILED", "2": "PREEMPTED", "3": "RUNNING"}
    assert seconds == 0.1


def test_an_unanswered_question_stays_one():
    async def nothing():
        return None, None

    assert asyncio.run(with_preempted_as_failed(nothing)()) == (None, None)


def test_jobs_of_a_run_are_cancelled_until_none_is_left(programs, tmp_path):
    queue = tmp_path / "queue"
    queue.write_text("11        a-run\n12        another-run\n13        a-run\n14        \n")
    calls = programs(scancel=f"sed -i '/ a-run$/d' {queue}", squeue=f"cat {queue}")
    cancel_jobs("a-run")
    query = f"squeue --noheader --user={os.getuid()} --Format=JobID:20,Comment:100"
    assert calls.read_text().splitlines() == [query, "scancel 11 13", query]


@pytest.mark.parametrize("scripts", [{}, {"scancel": "exit 1", "squeue": "exit 1"}, {"scancel": "", "squeue": "echo 7 a-run"}])
def test_jobs_that_cannot_be_cancelled_are_named(programs, monkeypatch, scripts):
    programs(**scripts)
    monkeypatch.setattr("shutil.which", lambda name: name if name in scripts else None)
    with pytest.raises(ClusterError, match="lists with a-run, then start again"):
        cancel_jobs("a-run", patience=0)
