"""What a run would do: Snakemake's command line without its start, several calls at a time."""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml

from helpers import ROOT, SMOKE

WORKERS = 3

# Snakemake's command line, imported once with what it and the Snakefile import. Each call is a process of its own, forked from
# this one, as if just started. Where the graph is asked for, a dry run prints it as its last line in place of the list of jobs.
SERVER = """
import json, os, sys
from pathlib import Path

root = Path(sys.argv[1])
sys.path.insert(0, str(root / "src"))
import h5py, jsonschema, nbformat, numpy, pydantic, requests, smart_open, tqdm, yaml
import relstab.config, relstab.figures, relstab.files.plan, relstab.runs.cluster, relstab.runs.snapshot
from snakemake.cli import get_argument_parser, main
import snakemake.storage, snakemake.workflow

get_argument_parser()  # finds the plugins
library = [name for name in sys.modules if name.partition(".")[0] == "relstab"]


def print_graph(workflow, *_arguments):
    dag = workflow.dag
    number = {job: index for index, job in enumerate(dag.jobs)}
    graph = [
        (job.rule.name, [str(file) for file in job.output], dag.needrun(job), [number[other] for other in dag.dependencies[job]])
        for job in number
    ]
    print(json.dumps(graph))
    sys.exit(0)


for line in sys.stdin:
    folder, source, arguments, as_graph, out = json.loads(line)
    child = os.fork()
    if not child:
        code = 1
        try:
            file = os.open(out, os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.chdir(folder)
            if Path(source) != root:  # another checkout has a library of its own
                for name in library:
                    del sys.modules[name]
            if as_graph:
                snakemake.workflow.JobScheduler = print_graph
            sys.argv[1:] = arguments
            main(arguments)
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Job:
    """One job of a plan.

    Attributes:
        name: that of its rule, or of a figure its file name, up to its number.
        outputs: the files it makes, without the results folder.
        rule: its rule.
        runs: whether the plan runs it.
        after: jobs whose outputs it reads, by their place in the plan.
    """

    name: str
    outputs: list[str]
    rule: str
    runs: bool
    after: list[int]

    @property
    def file(self) -> str:
        """Its first output; empty for a target."""
        return self.outputs[0] if self.outputs else ""

    def is_one_of(self, terms: str) -> bool:
        """Whether it is named: "train lenet noise10, table_claims" are jobs of train with these words in the path and a table."""
        path = set(self.file.removesuffix(".h5").split("/"))
        each = [term.split() for term in terms.split(",") if term.strip()]
        return any(name in ("*", self.name, self.rule) and path.issuperset(words) for name, *words in each)


def to_run(jobs: list[Job]) -> dict[str, set[str]]:
    """The first output of each job that a plan runs, by the job's name."""
    files: dict[str, set[str]] = {}
    for job in jobs:
        if job.runs:
            files.setdefault(job.name, set()).add(job.file)
    return files


class Planners:
    """Processes that plan; each starts at its first call."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.idle: SimpleQueue[subprocess.Popen[str] | None] = SimpleQueue()
        for _ in range(WORKERS):
            self.idle.put(None)
        self.pool = ThreadPoolExecutor(WORKERS)

    def _call(self, folder: Path, arguments: tuple[str, ...], source: Path, as_graph: bool) -> str:
        process = self.idle.get()
        try:
            if process is None:
                command = [sys.executable, "-c", SERVER, str(ROOT)]
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            with tempfile.NamedTemporaryFile("r", dir=self.scratch, suffix=".txt") as out:
                called = ["--snakefile", str(source / "Snakefile"), "--directory", str(folder), *arguments]
                print(json.dumps([str(folder), str(source), called, as_graph, out.name]), file=process.stdin, flush=True)
                code = process.stdout.readline().strip()
                text = out.read()
        finally:
            self.idle.put(process)
        if code != "0":
            raise RuntimeError(f"snakemake {' '.join(called)}: {text}")
        return text

    def snakemake(self, folder: Path, *arguments: str, config: Path = SMOKE) -> str:
        """What Snakemake writes when it is called in ``folder``; a RuntimeError with it where Snakemake fails."""
        return self._call(folder, (*arguments, "--configfile", str(config)), ROOT, as_graph=False)

    def plan(self, folder: Path, config: Path = SMOKE, *arguments: str, target: str = "all", source: Path = ROOT) -> list[Job]:
        """All jobs of a run with this config."""
        called = (target, "--dry-run", "--quiet", "all", "--cores", "2", *arguments, "--configfile", str(config))
        graph = json.loads(self._call(folder, called, source, as_graph=True).splitlines()[-1])
        results = f"{yaml.safe_load(config.read_text())['results']}/"
        jobs = []
        for rule, outputs, runs, after in graph:
            files = [output.removeprefix(results) for output in outputs]
            name = re.sub(r"(fig\d\d)_.*", r"\1", Path(files[0]).stem) if rule == "figure" else rule
            jobs.append(Job(name, files, rule, runs and bool(files), after))
        return jobs

    def planned(self, folder: Path, config: Path = SMOKE, *arguments: str) -> dict[str, set[str]]:
        """What a run of everything with this config would make: the first output of each job, by the job's name."""
        return to_run(self.plan(folder, config, *arguments))

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        while not self.idle.empty():
            if process := self.idle.get():
                process.kill()
                process.wait()
                process.stdin.close()
                process.stdout.close()
