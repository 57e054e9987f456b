"""What a person sees of a run while it runs: a panel with a bar per rule in a terminal, elsewhere one line per finished job.

Snakemake prints some twenty lines per job, of which its own log (``.snakemake/log``) keeps all.
"""

import atexit
import logging
import math
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LinePerJob", "RunProgress", "extend_panel"]

_HIDDEN = ("JOB_INFO", "JOB_STARTED", "GROUP_INFO", "PROGRESS", "RESOURCES_INFO", "WORKFLOW_STARTED")
"""Events that say nothing new to a person: how each job begins, what the scheduler does, versions."""


def _event(record: logging.LogRecord) -> str:
    return getattr(getattr(record, "event", None), "name", "")


@dataclass
class _Job:
    rule: str
    wildcards: Mapping[str, Any]
    started: float


class RunProgress(logging.Filter):
    """Counts the jobs of a run and estimates how long the rest takes, from the log records that pass through this filter.

    The estimate is (seconds of the jobs left) / (jobs that ran at a time so far). A job is taken to last as long as the finished
    jobs of its rule on average. While a rule has no finished job, its jobs are left out, and the estimate is a lower bound.
    """

    def __init__(self, clock: Any = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._begun: float | None = None
        self._left: Counter[str] = Counter()
        self._running: dict[int, _Job] = {}
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.total = self.done = 0
        self.last: _Job | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Count the job of a record, and let the record pass."""
        event = _event(record)
        now = self._clock()
        if event == "RUN_INFO":
            stats: Mapping[str, int] = record.__dict__["stats"]
            self._left = Counter({rule: count for rule, count in stats.items() if rule != "total"})
            self.total, self._begun = stats["total"], now
        elif event == "JOB_INFO":
            job = _Job(record.__dict__["rule_name"], dict(record.__dict__["wildcards"] or {}), now)
            self._running[record.__dict__["jobid"]] = job
        elif event == "JOB_FINISHED" and (finished := self._running.pop(record.__dict__["job_id"], None)):
            self._seconds[finished.rule].append(now - finished.started)
            self._left[finished.rule] -= 1
            self.done += 1
            self.last = finished
        elif event == "JOB_ERROR":
            self._running.pop(record.__dict__["jobid"], None)
        return True

    def seconds_left(self) -> tuple[float, bool]:
        """Estimated seconds until the run ends, and whether that is a lower bound."""
        now = self._clock()
        busy = sum(map(sum, self._seconds.values()))
        elapsed = now - self._begun if self._begun is not None else 0.0
        if not busy or not elapsed:
            return math.nan, True
        mean = {rule: sum(seconds) / len(seconds) for rule, seconds in self._seconds.items()}
        left = sum(count * mean.get(rule, 0.0) for rule, count in self._left.items())
        for job in self._running.values():
            left -= min(now - job.started, mean.get(job.rule, 0.0))
            busy += now - job.started
        at_a_time = max(busy / elapsed, 1.0)
        return left / at_a_time, any(count and rule not in mean for rule, count in self._left.items())

    def time_left(self) -> str:
        """The estimate in words: "about 4 min left"; "" as long as no job has ended."""
        seconds, at_least = self.seconds_left()
        if math.isnan(seconds):
            return ""
        if seconds < 60:
            return "" if at_least else "less than 1 min left"
        amount = f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{math.ceil(seconds / 60)} min"
        return f"{'more than' if at_least else 'about'} {amount} left"


class LinePerJob(logging.Formatter):
    """Writes one line per finished job: "12 of 47 jobs, about 4 min left: train architecture=lenet noise=0 seed=0"."""

    def __init__(self, progress: RunProgress, others: logging.Formatter) -> None:
        super().__init__()
        self._progress, self._others = progress, others

    @staticmethod
    def filter(record: logging.LogRecord) -> bool:
        """Leave out records that say nothing new to a person."""
        return _event(record) not in _HIDDEN and record.getMessage() != "Select jobs to execute..."

    def format(self, record: logging.LogRecord) -> str:
        """One line of a finished job; all else as Snakemake writes it."""
        job = self._progress.last
        if _event(record) != "JOB_FINISHED" or job is None:
            return self._others.format(record)
        left = self._progress.time_left()
        which = " ".join(f"{name}={value}" for name, value in job.wildcards.items() if value)
        counts = f"{self._progress.done} of {self._progress.total} jobs"
        return f"{', '.join(filter(None, [counts, left]))}: {job.rule} {which}".rstrip()


def extend_panel(panel: Any, progress: RunProgress) -> None:
    """Show in the panel of Snakemake's logger plugin "rich" how much time is left, and above it what jobs write to the terminal.

    Jobs are processes that write to stderr themselves, into the middle of the panel. So stderr is a pipe while there is a panel.

    Args:
        panel: the log handler of snakemake-logger-plugin-rich.
        progress: of the same run.
    """
    from rich.progress import ProgressColumn
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(progress.time_left() if task.id == 0 else "")  # the first bar is the whole run

    spinner, _active, *others = panel.progress.columns  # the plugin (0.5) counts one running job too many
    panel.progress.columns = (spinner, *others, TimeLeft())
    terminal = os.dup(2)
    panel.console.file = os.fdopen(os.dup(terminal), "w")
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def show_lines() -> None:
        with os.fdopen(reading, errors="replace") as lines:
            for line in lines:
                panel.console.print(Text(line.rstrip()), soft_wrap=True)

    thread = threading.Thread(target=show_lines, daemon=True)
    thread.start()
    close = panel.close

    def close_all() -> None:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # the last writing end of the pipe is closed, so its reader ends
        thread.join(timeout=5)
        close()

    panel.close = close_all
    atexit.register(close_all)
