"""SLURM as a run needs it: names of jobs, the command that knows their states, jobs that a killed run left behind."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

__all__ = [
    "ClusterError",
    "cancel_jobs",
    "check_names",
    "choose_status_command",
    "job_name",
    "refusal",
    "with_preempted_as_failed",
]

# Seconds between two queries of Snakemake's SLURM plugin for the states of jobs, at most. A job that the queue forgets sooner can
# end without notice.
LONGEST_INTERVAL = 180


class ClusterError(RuntimeError):
    """The run would wait for ever, or compute something twice. The message says what to do instead."""


def job_name(rule: str, wildcards: Mapping[str, str]) -> str:
    """Name of a job in SLURM: the rule and the values of its wildcards, as in train_mnist5k_lenet_noise10_seed0."""
    given = {key: value.lstrip("_") for key, value in wildcards.items() if value}
    return "_".join([rule, *(value if value[:1].isalpha() else f"{key}{value}" for key, value in given.items())])


def check_names(rule: str, resources: Mapping[str, Any]) -> None:
    """Refuse SLURM's names that YAML has read as numbers: an account 0042 would be 34."""
    for name in ("slurm_account", "slurm_partition", "gpu_model"):
        value = resources.get(name)
        if value is not None and not isinstance(value, str):
            raise ClusterError(
                f"expected {name} of rule {rule} to be text, got {value!r}: write the name in two pairs of quotes, "
                f"{name}: \"'NAME'\" (slurm/config.yaml)"
            )


def refusal(message: str) -> str:
    """The part of the plugin's message about a failed job that says why, without the command that submitted it."""
    return message.partition("\n    sbatch call:")[0].strip()


def _jobs_of(run: str) -> list[str] | None:
    """Numbers of the jobs that wait or run and whose comment is ``run``; None if squeue fails."""
    query = ["squeue", "--noheader", f"--user={os.getuid()}", "--Format=JobID:20,Comment:100"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = [line.split() for line in answer.stdout.splitlines()]
    return None if answer.returncode else [line[0] for line in lines if line[1:] == [run]]


def cancel_jobs(run: str, patience: float = 90) -> None:
    """Cancel all jobs of a run, and return when none is left on a node.

    Args:
        run: identifier of the run, the comment of its jobs.
        patience: seconds that jobs may take to end.

    Raises:
        ClusterError: the jobs cannot be cancelled from this machine.
    """
    failed = ClusterError(
        f"jobs of a run that was killed may still be on the cluster: cancel the jobs that squeue --me --Format=JobID,Comment:50 "
        f"lists with {run}, then start again"
    )
    if not shutil.which("scancel"):
        raise failed
    end = time.monotonic() + patience
    while (jobs := _jobs_of(run)) != []:
        # A job may have ended since it was listed: scancel then fails, and the next list decides.
        if jobs is not None:
            subprocess.run(["scancel", *jobs], capture_output=True, check=False)
        if jobs is None or time.monotonic() > end:
            raise failed
        time.sleep(1)


def choose_status_command(settings: str) -> str:
    """Command that knows the states of jobs: squeue if it remembers ended jobs for long enough, else sacct.

    Args:
        settings: output of ``scontrol show config``.

    Raises:
        ClusterError: neither remembers ended jobs.
    """
    found = {
        key: re.search(rf"^{key}\s*=\s*(\S+)", settings, flags=re.MULTILINE) for key in ("MinJobAge", "AccountingStorageType")
    }
    age, accounting = found["MinJobAge"], found["AccountingStorageType"]
    if age is None or int(age[1]) > LONGEST_INTERVAL:
        return "squeue"
    if accounting is not None and accounting[1].endswith("slurmdbd"):
        return "sacct"
    raise ClusterError(
        f"expected a cluster that remembers ended jobs, got MinJobAge = {age[1]} s and no accounting: the end of a job could be "
        f"missed. Ask the administrator to set MinJobAge to 300 (slurm.conf)"
    )


Query = Callable[..., Awaitable[tuple[dict[str, str] | None, float | None]]]


def with_preempted_as_failed(query: Query) -> Query:
    """The plugin's query for the states of jobs; a preempted job that SLURM does not start again counts as failed.

    SLURM requeues or cancels preempted jobs, depending on the cluster. The plugin waits for both.
    """

    async def asked(*arguments: Any, **options: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await query(*arguments, **options)
        for number, state in (states or {}).items():
            if states is not None and state == "PREEMPTED":
                # Without --states=all squeue lists only jobs that wait or run.
                waiting = subprocess.run(["squeue", "--noheader", "--jobs", number], capture_output=True, text=True, check=False)
                if not waiting.stdout.strip():
                    states[number] = "FAILED"
        return states, seconds

    return asked
