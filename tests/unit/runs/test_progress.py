"""What a person sees of a run while it runs."""

import logging
from types import SimpleNamespace

from relstab.runs.progress import LinePerJob, RunProgress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def record(event, message="", level=logging.INFO, **fields):
    made = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    made.__dict__.update(event=SimpleNamespace(name=event) if event else None, **fields)
    return made


def run_info(**counts):
    return record("RUN_INFO", stats={**counts, "total": sum(counts.values())})


def begin(progress, jobid, rule, **wildcards):
    progress.filter(record("JOB_INFO", jobid=jobid, rule_name=rule, wildcards=wildcards))


def end(progress, jobid):
    progress.filter(record("JOB_FINISHED", job_id=jobid))


def test_time_left_is_the_work_left_shared_by_as_many_jobs_as_run_at_a_time():
    clock = Clock()
    progress = RunProgress(clock)
    progress.filter(run_info(train=6, figure=2))
    assert progress.time_left() == ""
    begin(progress, 1, "train")
    begin(progress, 2, "train")
    clock.now = 300.0
    end(progress, 1)
    end(progress, 2)
    # Four of 300 s are left, two at a time; of figures nothing is known.
    assert progress.seconds_left() == (600.0, True)
    assert progress.time_left() == "more than 10 min left"
    begin(progress, 3, "figure")
    begin(progress, 4, "train")
    clock.now = 310.0
    end(progress, 3)
    # 1,200 s of training, of which 10 have passed, and a figure of 10 s; 620 job seconds in 310 s.
    assert progress.seconds_left() == (600.0, False)
    assert progress.time_left() == "about 10 min left"
    assert (progress.done, progress.total) == (3, 8)


def test_a_job_that_failed_does_not_run():
    clock = Clock()
    progress = RunProgress(clock)
    progress.filter(run_info(train=2))
    begin(progress, 1, "train")
    clock.now = 5.0
    progress.filter(record("JOB_ERROR", jobid=1))
    begin(progress, 2, "train")
    clock.now = 15.0
    end(progress, 2)
    # One job of 10 s is left; 10 of 15 s had a job that ended well, so one runs at a time.
    assert progress.seconds_left() == (10.0, False)
    assert progress.time_left() == "less than 1 min left"


def test_elsewhere_than_in_a_terminal_a_job_is_one_line():
    clock = Clock()
    progress = RunProgress(clock)
    lines = LinePerJob(progress, logging.Formatter("usual: %(message)s"))
    progress.filter(run_info(train=2))
    begin(progress, 1, "train", architecture="lenet", noise="0", subset="")
    clock.now = 120.0
    finished = record("JOB_FINISHED", job_id=1)
    progress.filter(finished)
    assert lines.format(finished) == "1 of 2 jobs, about 2 min left: train architecture=lenet noise=0"
    assert lines.format(record("", "said")) == "usual: said"
    hidden = [
        event
        for event in ("JOB_INFO", "JOB_STARTED", "JOB_FINISHED", "JOB_ERROR", "RUN_INFO", "")
        if not lines.filter(record(event))
    ]
    assert hidden == ["JOB_INFO", "JOB_STARTED"]
