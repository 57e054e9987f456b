"""What Snakemake's SLURM plugin (2.8) leaves to its users: jobs left behind, states it waits on for ever, limits of arrays."""

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

__all__ = ["ClusterError", "cancel_jobs", "check_arrays", "choose_status_command", "with_preempted_as_failed"]

# Tasks of one array whose commands, 1.9 kB each, fit into one argument of a command line, which has 128 kB. Above that the plugin
# writes a script in which every task runs the first one's command.
MAX_ARRAY_TASKS = 60
# Seconds between two looks at the queue at most: what it forgets sooner can end unseen.
LONGEST_LOOK = 180


class ClusterError(RuntimeError):
    """What was asked for would hang or do work twice; says what to do instead."""


def cancel_jobs(name: str, patience: float = 90) -> None:
    """Cancel all jobs of one name, and return when none is left on a node.

    Args:
        name: of the jobs, all those of one run.
        patience: seconds that jobs may take to end.

    Raises:
        ClusterError: it cannot be done from here.
    """
    failed = ClusterError(f"jobs of a run that was killed may still be on the cluster: scancel --name={name}, then start again")
    if not shutil.which("scancel"):
        raise failed
    end = time.monotonic() + patience
    while True:
        if subprocess.run(["scancel", "--name", name], capture_output=True, check=False).returncode:
            raise failed
        left = subprocess.run(["squeue", "--noheader", "--name", name], capture_output=True, text=True, check=False)
        if left.returncode == 0 and not left.stdout.strip():
            return
        if time.monotonic() > end:
            raise failed
        time.sleep(1)


def check_arrays(rules: Sequence[str], arrays: set[str], tasks: int, largest: int, limits: Mapping[str, int | None]) -> set[str]:
    """Rules whose jobs may be submitted as arrays.

    The plugin submits an array when all that is ready is there, and loses what it holds back: nothing else may hold jobs back.

    Args:
        rules: of the jobs that are to be done, one for each.
        arrays: rules that are to be arrays, or "all".
        tasks: of one array.
        largest: number of a task that the cluster takes (MaxArraySize): the plugin counts tasks through all arrays of a rule.
        limits: settings that bound how many jobs are submitted, by name; None for no bound.

    Raises:
        ClusterError: the run would wait for ever.
    """
    if not arrays:
        return arrays
    instead = "or no slurm-array-jobs (slurm/config.yaml)"
    for name, number in limits.items():
        if number is not None and number < len(rules):
            raise ClusterError(
                f"{name} is {number} and {len(rules)} jobs are to be done: with job arrays, some would never be submitted; "
                f"a larger number is wanted, {instead}"
            )
    if tasks > MAX_ARRAY_TASKS:
        raise ClusterError(f"slurm-array-limit is {tasks}: at most {MAX_ARRAY_TASKS} commands fit into one submission, {instead}")
    counts = Counter(rules)
    return {rule for rule in (counts if "all" in arrays else arrays) if counts[rule] <= largest}


def choose_status_command(settings: str) -> str:
    """Command that tells how jobs are: squeue where it remembers them for long enough, else sacct.

    Args:
        settings: what ``scontrol show config`` says.

    Raises:
        ClusterError: neither remembers.
    """
    found = {
        key: re.search(rf"^{key}\s*=\s*(\S+)", settings, flags=re.MULTILINE) for key in ("MinJobAge", "AccountingStorageType")
    }
    age, accounting = found["MinJobAge"], found["AccountingStorageType"]
    if age is None or int(age[1]) > LONGEST_LOOK:
        return "squeue"
    if accounting is not None and accounting[1].endswith("slurmdbd"):
        return "sacct"
    raise ClusterError(
        f"this cluster forgets jobs {age[1]} s after their end and keeps no accounts, so that their end would be missed: its "
        f"administrator can set MinJobAge to 300 (slurm.conf)"
    )


Query = Callable[..., Awaitable[tuple[dict[str, str] | None, float | None]]]


def with_preempted_as_failed(query: Query) -> Query:
    """The plugin's question for the states of jobs, in which what was preempted and stays away has failed, to be tried again.

    SLURM requeues preempted jobs or cancels them, as the cluster has it; the plugin waits for both.
    """

    async def asked(*arguments: Any, **options: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await query(*arguments, **options)
        for number, state in (states or {}).items():
            if states is not None and state == "PREEMPTED":
                # Without --states=all squeue knows what waits and runs.
                here = subprocess.run(["squeue", "--noheader", "--jobs", number], capture_output=True, text=True, check=False)
                if not here.stdout.strip():
                    states[number] = "FAILED"
        return states, seconds

    return asked
