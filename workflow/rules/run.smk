# What happens around a run: its lock, results of another config, the snapshot from which jobs on a cluster start, and SLURM. All that
# reaches inside Snakemake (9.27) or its SLURM plugin (2.8) is in this file, with the issue of theirs that it works around.

import copy
import functools
import gc
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

from snakemake.dag import DAG
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
from snakemake.settings.types import ExecMode, RerunTrigger, SharedFSUsage

# A file that is edited after this moment is not the file that this run plans with.
PLANNED = time.time()

# A plan has millions of objects, most of which stay alive. Python's usual garbage collection takes a twelfth of the planning time.
gc.set_threshold(100_000, 20, 100)

# The library of this checkout, here and in all jobs, also in an environment in which it is not installed.
SOURCE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SOURCE)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [SOURCE, os.getenv("PYTHONPATH")])))

from relstab.files.checkpoints import discard_saved
from relstab.files.plan import differing, plan_of
from relstab.files.trained_early import PlannedNetwork, discard_planned, write_planned
from relstab.runs.cluster import (
    ClusterError,
    cancel_jobs,
    check_names,
    choose_status_command,
    job_name,
    refusal,
    with_preempted_as_failed,
)
from relstab.runs.lock import FolderInUseError, RunLock
from relstab.runs.orphan import belong_to_this_process, discard_scripts
from relstab.runs.progress import LinePerJob, RunProgress, extend_panel
from relstab.runs.snapshot import EditedError, changed_user_code, discard_snapshots, left_over_runs, run_snapshot

# The config as the user gave it, before defaults fill it: jobs on a cluster read it.
GIVEN = copy.deepcopy(config)
# Files that --configfile names, for messages.
OVERLAYS = [Path(file).name for file in workflow.overwrite_configfiles]
# What the command line says of the config, to say it again in a command.
GIVEN_ON_COMMAND_LINE = {
    "configfile": [os.path.relpath(file) for file in workflow.overwrite_configfiles],
    "config": [f"{key}={value}" for key, value in workflow.config_settings.config.items()],
}
SUBMITS_JOBS = workflow.resource_settings.nodes is not None

# Jobs end when this run ends.
belong_to_this_process(workflow.exec_mode == ExecMode.REMOTE)


if changed := changed_user_code(workflow.basedir):
    raise WorkflowError(f"{changed[0]} was changed since this run began: stop the run, and start it again")


def show_progress():
    """A panel of bars in a terminal, elsewhere one line per job; with --verbose, in dry runs and in jobs, all of Snakemake's output.

    A profile cannot say "in a terminal", so the logger plugin is chosen here. A plugin that the user names (--logger) stays.
    """
    settings = workflow.output_settings
    usual = next((handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"), None)
    asked = settings.dryrun or settings.verbose or settings.printshellcmds or settings.quiet
    if workflow.exec_mode != ExecMode.DEFAULT or usual is None or asked:
        return
    progress = RunProgress()
    terminal = sys.stderr.isatty() and os.getenv("TERM") != "dumb" and not os.getenv("CI")
    if terminal and importlib.util.find_spec("snakemake_logger_plugin_rich"):
        panel = LoggerPluginRegistry().get_plugin("rich").log_handler(settings, None)
        panel.addFilter(progress)
        extend_panel(panel, progress)
        logger.removeHandler(usual)
        logger.addHandler(panel)
    else:
        usual.addFilter(progress)
        usual.addFilter(LinePerJob.filter)
        usual.setFormatter(LinePerJob(progress, usual.formatter))


show_progress()


def user_code():
    """References to user code, ``path/to/file.py:function``, in the config."""
    return [*filter(None, [CONFIG.data.function]), *(own.builder for own in CONFIG.own_architectures.values())]


def prepare_slurm(executor):
    """Change what the SLURM plugin does where it would wait for ever, hide a reason or name all jobs alike."""
    import snakemake_executor_plugin_slurm as plugin

    if executor.array_jobs:
        # https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/473
        raise ClusterError("job arrays can wait for ever in this version of Snakemake's SLURM plugin: leave out slurm-array-jobs")
    for job in {job.rule.name: job for job in workflow.dag.needrun_jobs()}.values():
        check_names(job.rule.name, job.resources)
    settings = workflow.executor_settings
    if settings.status_command == "squeue":
        shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
        settings.status_command = choose_status_command(shown.stdout)

    # Without an account in the profile the plugin asks sacct for the user's last one, and fails where there is no accounting:
    # https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/76
    executor._fallback_account_arg = ""

    # The plugin waits for preempted jobs, also for those that SLURM does not start again:
    # https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/109
    plugin.query_job_status = with_preempted_as_failed(plugin.query_job_status)

    # The plugin gives all jobs of a run one name, a random number, and asks for their states by it:
    # https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/17. Here the name says what a job is, the comment holds the
    # number (relstab.runs.cluster finds left-over jobs by it), and states are asked for by user.
    submit = plugin.get_submit_command
    queries = {name: getattr(plugin, name) for name in ("query_job_status_squeue", "query_job_status_sacct")}

    def submit_with_name(job, params, **options):
        name = job.groupid if job.is_group() else job_name(job.rule.name, job.wildcards_dict)
        return submit(job, {**params, "run_uuid": name, "comment_str": params["run_uuid"]}, **options)

    plugin.get_submit_command = submit_with_name
    for name, query in queries.items():
        setattr(plugin, name, lambda run, query=query: query(run).replace(f"--name {run}", f"--user {os.getuid()}"))

    # Snakemake drops the reason why a group of jobs failed, also SLURM's refusal of its submission:
    # https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/456
    report_error = executor.report_job_error

    def report_with_reason(job_info, msg=None, **options):
        if msg and job_info.job.is_group():
            logger.error(f"{job_info.job.groupid}: {refusal(msg)}")
        report_error(job_info, msg=msg, **options)

    executor.report_job_error = report_with_reason


def planned_together():
    """The networks of this run that its jobs may train for each other."""
    dag = workflow.dag
    for job in dag.needrun_jobs():
        if job.rule.name == "train_together":
            path = str(job.output.network)
            plan = plan_of("train", job.wildcards_dict, job.params.options, path, RESULTS)
            made = [str(file) for other, files in dag.dependencies[job].items() if dag.needrun(other) for file in files]
            yield PlannedNetwork(path, plan, str(job.input.dataset), str(job.input.test), str(job.log[0]), made)


def cancel_left_over():
    """Cancel jobs that are still on the cluster: those of a killed run, or submitted while this run was being stopped."""
    try:
        for run in left_over_runs(RESULTS):
            cancel_jobs(run)
    finally:
        discard_snapshots(RESULTS)  # jobs that could not be cancelled are reported once


# Results of another config are made again, also where Snakemake's own record is gone: every file carries its plan.
@functools.cache
def planned_options():
    """Options of each rule, or a function of the wildcards."""
    return {each.name: dict(each.params.items()).get("options", {}) for each in workflow.rules}


def options_today(name, wildcards):
    """Options that the config plans for a rule and wildcards."""
    planned = planned_options()[name]
    return planned(types.SimpleNamespace(**wildcards)) if callable(planned) else planned


def with_differing_files(init):
    """DAG.init that forces the jobs of files of another config, and says which."""

    @functools.wraps(init)
    async def wrapped(dag, *arguments, **settings):
        own = dag.workflow
        is_run = own.exec_mode == ExecMode.DEFAULT and RerunTrigger.PARAMS in own.dag_settings.rerun_triggers
        other, unknown = getattr(own, "differing", lambda: ([], []))() if is_run else ([], [])
        # A file without a plan, from an earlier version, counts as current if Snakemake has a record of it.
        others = {*other, *(path for path in unknown if own.persistence._read_record(path) is None)}
        dag.forcefiles.update(others)
        await init(dag, *arguments, **settings)
        again = sorted(str(file) for job in dag.needrun_jobs() for file in job.output if file in others)
        if again:
            more = f", {again[1]} and {len(again) - 2} more" if len(again) > 2 else ""
            print(f"relstab: not made with this config, so made again: {again[0]}{more}", file=sys.stderr)

    wrapped.is_relstab = True
    return wrapped


workflow.differing = lambda: differing(RESULTS, options_today)
if not hasattr(DAG.init, "is_relstab"):
    DAG.init = with_differing_files(DAG.init)


onstart:
    # Snakemake's own lock outlives a run that was killed, so it is off (profiles/default). This lock ends with its process: a run that was
    # interrupted can be started again at once, and two runs cannot write to one folder.
    try:
        try:
            # An attribute of the workflow, because it has to outlive this block.
            workflow.run_lock = RunLock(RESULTS, PLANNED)
        except OSError as error:
            sentence = f"expected a folder of results to write to, got {RESULTS} ({error.strerror}): name another (config.yaml: results)"
            raise WorkflowError(sentence) from None
        cancel_left_over()
        # With a limit on jobs per second, Snakemake selects jobs a second after each selection, over and over, once more for each job
        # that has finished: after 150 jobs it takes a fifth of a core. Its default, 100 per second, limits nothing here. A limit that
        # the user gives stays. https://github.com/snakemake/snakemake/pull/3043
        limit = workflow.scheduler.job_rate_limiter
        if limit and (limit.max_jobs, limit.timespan) == (100, 1):
            workflow.scheduler.job_rate_limiter = None
        if TOGETHER:
            write_planned(RESULTS, planned_together())
        executor = workflow.scheduler._executor
        if type(executor).__module__ == "snakemake_executor_plugin_slurm":
            prepare_slurm(executor)
        shared = SharedFSUsage.SOURCES in workflow.storage_settings.shared_fs_usage
        if workflow.non_local_exec and shared and not workflow.remote_execution_settings.immediate_submit:
            # Jobs start from a copy of code and config, so that the user can edit both while jobs wait in the queue:
            # https://github.com/snakemake/snakemake/issues/3234
            run = getattr(executor, "run_uuid", "")
            executor.snakefile = str(run_snapshot(workflow.basedir, RESULTS, GIVEN, user_code(), run, PLANNED).resolve())
            workflow.config_settings.configfiles = []
    except (ClusterError, FolderInUseError, EditedError) as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    discard_snapshots(RESULTS)
    discard_scripts()
    discard_planned(RESULTS)
    for folder in Path(RESULTS).rglob("*.checkpoints"):
        discard_saved(folder)
    if not workflow.touch and any(job.rule.name == "table_claims" for job in workflow.dag.jobs):
        from relstab.report import summary_lines
        from relstab.tables.networks import read_table

        width = shutil.get_terminal_size((130, 24)).columns
        given = [f"--{option} {' '.join(words)}" for option, words in GIVEN_ON_COMMAND_LINE.items() if words]
        command = " ".join(["snakemake report --cores", str(workflow.cores or 1), *given])
        print("", *summary_lines(read_table(table("claims")), RESULTS, width, command), sep="\n", file=sys.stderr)


onerror:
    try:
        if hasattr(workflow, "run_lock"):  # without the lock the snapshots belong to another run
            cancel_left_over()
    except ClusterError as error:
        print(error, file=sys.stderr)
