# Results of another config are made again, also where Snakemake's own record is gone: every file says what it was planned to be.

import functools
import types

from snakemake.dag import DAG
from snakemake.settings.types import ExecMode, RerunTrigger

from relstab.files.plan import differing
from relstab.runs.orphan import belong_to_this_process

# Jobs end when this run ends.
belong_to_this_process(workflow.exec_mode == ExecMode.REMOTE)


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
        # What was made before files had records is believed where Snakemake has one.
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
