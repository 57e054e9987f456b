import asyncio
import os
from pathlib import Path

import pytest

from relstab.runs.cluster import (
    MAX_ARRAY_TASKS,
    ClusterError,
    cancel_jobs,
    check_arrays,
    choose_status_command,
    with_preempted_as_failed,
)

RULES = ["train"] * 4 + ["spectra"] * 3 + ["figure_1"]


def checked(**changes):
    given = {"arrays": {"spectra", "probes"}, "tasks": 30, "largest": 1000, "limits": {"jobs": None}} | changes
    return check_arrays(RULES, **given)


def test_arrays_where_nothing_holds_jobs_back():
    assert checked() == {"spectra", "probes"}
    assert checked(limits={"jobs": len(RULES), "max-jobs-per-timespan": 100}) == {"spectra", "probes"}
    assert checked(arrays={"all"}) == {"train", "spectra", "figure_1"}
    assert checked(arrays=set(), tasks=999, limits={"jobs": 1}) == set()


def test_a_rule_of_more_jobs_than_an_array_can_number_is_submitted_job_by_job():
    assert checked(arrays={"train", "spectra"}, largest=3) == {"spectra"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"limits": {"jobs": 7}}, "jobs is 7 and 8 jobs are to be done: .* a larger number is wanted, or no slurm-array-jobs"),
        ({"limits": {"jobs": None, "max-jobs-per-timespan": 7}}, "max-jobs-per-timespan is 7 and 8 jobs"),
        ({"tasks": MAX_ARRAY_TASKS + 1}, "slurm-array-limit is 61: at most 60"),
    ],
)
def test_what_would_wait_for_ever_is_refused(changes, sentence):
    with pytest.raises(ClusterError, match=sentence):
        checked(**changes)


def settings(age, accounting):
    return f"Configuration data as of now\nAccountingStorageType   = {accounting}\nMinJobAge               = {age} sec\n"


def test_whoever_remembers_is_asked():
    assert choose_status_command(settings(300, "(null)")) == "squeue"
    assert choose_status_command(settings(60, "accounting_storage/slurmdbd")) == "sacct"
    assert choose_status_command("") == "squeue"  # scontrol does not say
    with pytest.raises(ClusterError, match="forgets jobs 60 s after their end and keeps no accounts"):
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


def test_jobs_are_cancelled_until_none_is_left(programs, tmp_path):
    left = tmp_path / "left"
    left.write_text("x")
    calls = programs(scancel="exit 0", squeue=f"cat {left}; : > {left}")
    cancel_jobs("a-name")
    assert calls.read_text().splitlines() == ["scancel --name a-name", "squeue --noheader --name a-name"] * 2


@pytest.mark.parametrize("scripts", [{}, {"scancel": "exit 1"}, {"scancel": "exit 0", "squeue": "echo a job"}])
def test_jobs_that_cannot_be_cancelled_are_said(programs, monkeypatch, scripts):
    programs(**scripts)
    monkeypatch.setattr("shutil.which", lambda name: name if name in scripts else None)
    with pytest.raises(ClusterError, match="scancel --name=a-name, then start again"):
        cancel_jobs("a-name", patience=0)
