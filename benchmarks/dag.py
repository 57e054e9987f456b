"""Planning, and what a grid leaves on the disk: Snakemake's time and memory for the paper's grid with fewer and many more seeds.

- *plan*: `snakemake -n all` where nothing is there yet;
- *no-op*: `snakemake -n all`, and *no-op run*: `snakemake --cores 1 all`, where all is finished. Nothing is computed for that:
  outputs are sparse files of about their size, logs and benchmark files a few bytes, and `snakemake --touch` keeps the metadata
  that a run would have kept, by the same code;
- *one job*: what each submitted job does before its work, which is to plan itself: `snakemake -n --target-jobs train:...`.

Each is a fresh process in a temporary folder; wall time and processor time are the best of the turns, memory is the peak. Ratios
are of processor times, since Snakemake plans on one core, and other work on the machine delays it: growth is the time over that
of the next smaller grid, over the same ratio of jobs (1 is linear), and times_plan the time over that of planning the same grid.

Then the files of the paper's grid by kind. Networks, data sets, probes and sensitivities follow from their arrays; the others are
given the mean size of their like in a finished run, that of the default config by default. All bytes are estimates, but for the
metadata, which are written here.

    python benchmarks/dag.py [--jobs 1000 10000 50000] [--finished 10000] [--turns 2] [--run results]
"""

import argparse
import csv
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from snakemake.utils import update_config

import relstab
from relstab.architectures.torchvision_networks import build_torchvision
from relstab.config import IMAGENET, Config, load_config
from relstab.scale_detection.design import PAIRS, EnsembleRecipe, SimpleDesign

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "configs" / "paper.yaml"
# Of 1,949 jobs, these are there however many seeds there are: data sets, noise levels, rings, ImageNet, tables, figures.
FIXED_JOBS = 69
CIFAR10 = {"train": 50_000, "test": 10_000}
# Runs a command and notes its status, wall time, processor time and peak memory, which Linux counts in KiB and macOS in bytes. A
# process of its own: one that is started begins with the peak of the one that starts it, and this one has loaded torch.
CLOCK = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[2:], stderr=subprocess.STDOUT).returncode
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
with open(sys.argv[1], "w") as file:
    json.dump([status, seconds, usage.ru_utime + usage.ru_stime, peak], file)
"""
# Snakemake sleeps 0.1 s for each job that it touches, and no file system here has times so coarse.
TOUCH = (
    "import sys; from snakemake.executors import touch; touch.Executor.SLEEPING_TIME = 0; "
    "from snakemake.cli import main; main(sys.argv[1:])"
)
NOTHING = "Nothing to be done"


@dataclass
class Run:
    """A process that has ended: wall time, processor time, peak memory, and what it printed."""

    seconds: float
    cpu_seconds: float
    mb: float
    text: str


@dataclass
class Job:
    """One job of a plan: its rule and the files that it makes."""

    rule: str
    outputs: list[str]
    logs: list[str]
    benchmark: str | None


def scaled(jobs: int | None) -> dict[str, Any]:
    """What makes the paper's grid one of about that many jobs: more or fewer seeds of everything that has them."""
    paper = yaml.safe_load(PAPER.read_text())
    factor = 1.0 if jobs is None else (jobs - FIXED_JOBS) / (1949 - FIXED_JOBS)

    def times(seeds: int) -> int:
        return max(1, round(factor * seeds))

    recipes = {name: {"seeds": times(recipe["seeds"])} for name, recipe in paper["recipes"].items() if "seeds" in recipe}
    pairs = {"images": {"seeds": times(paper["scale_detection"]["images"]["seeds"])}}
    return {"seeds": times(paper["seeds"]), "recipes": recipes, "scale_detection": pairs}


def paper_config() -> Config:
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(raw, yaml.safe_load(PAPER.read_text()))
    return load_config(raw, PAPER.name)


class Grid:
    """A grid in a folder of its own."""

    def __init__(self, folder: Path, jobs: int | None) -> None:
        self.folder = folder
        folder.mkdir()
        self.overlay = folder / "overlay.yaml"
        self.overlay.write_text(yaml.safe_dump(scaled(jobs)))

    def snakemake(self, *arguments: str, program: tuple[str, ...] = ("-m", "snakemake")) -> Run:
        """Run Snakemake in the folder, and fail where it does."""
        files = "--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder)
        command = [sys.executable, *program, *files, *arguments, "--configfile", str(PAPER), str(self.overlay)]
        result = self.folder / "clock.json"
        text = subprocess.run(
            [sys.executable, "-c", CLOCK, str(result), *command], stdout=subprocess.PIPE, text=True, cwd=self.folder, check=True
        ).stdout
        status, *measured = json.loads(result.read_text())
        if status:
            raise RuntimeError(f"{' '.join(command)}\n{text[-2000:]}")
        return Run(*measured, text)

    def plan(self) -> Run:
        return self.snakemake("-n", "all")

    def no_op(self) -> Run:
        return self._nothing(self.snakemake("-n", "all"))

    def no_op_run(self) -> Run:
        return self._nothing(self.snakemake("--cores", "1", "all"))

    def one_job(self) -> Run:
        """Planning of a single training, as executors start it."""
        wildcards = "dataset=cifar10,architecture=resnet18,noise=0,seed=0"
        return self.snakemake("-n", "--force", "--target-jobs", f"train:{wildcards}", "--allowed-rules", "train")

    @staticmethod
    def _nothing(run: Run) -> Run:
        if NOTHING not in run.text:
            raise RuntimeError(f"there is something to be done where all is finished:\n{run.text[-2000:]}")
        return run

    def finish(self, jobs: list[Job], sizes: "Sizes") -> Run:
        """Make the files of all jobs, and the metadata of a run that has made them."""
        for job in jobs:
            for output in job.outputs:
                self._make(output, sizes.output(job.rule, output))
            for kind, files in (("logs", job.logs), ("benchmarks", [job.benchmark] if job.benchmark else [])):
                for file in files:
                    self._make(file, sizes.small(f"{kind}/{job.rule}"))
        # As many jobs at a time as there are: otherwise most of the time is that of choosing the next ones.
        return self.snakemake("--touch", "--forceall", "--cores", str(len(jobs)), "all", program=("-c", TOUCH))

    def _make(self, name: str, size: int) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size)

    def metadata(self) -> tuple[int, int]:
        """Number and bytes of the files in which Snakemake keeps how each output was made."""
        found = [path.stat().st_size for path in (self.folder / ".snakemake" / "metadata").rglob("*") if path.is_file()]
        return len(found), sum(found)


def jobs_of(text: str) -> list[Job]:
    """Jobs of a plan, out of what `snakemake -n` prints."""
    jobs = []
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", text, flags=re.MULTILINE):
        lines = dict(line.strip().split(": ", 1) for line in block.splitlines() if ": " in line)
        outputs, logs = (lines[key].split(", ") if key in lines else [] for key in ("output", "log"))
        # Flags of a file stand behind it, in brackets.
        jobs.append(Job(rule, [output.split(" ")[0] for output in outputs], logs, lines.get("benchmark")))
    return jobs


def total(text: str) -> int:
    """Number of jobs that Snakemake says it has planned."""
    found = re.search(r"^total +(\d+)$", text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no plan:\n{text[-2000:]}")
    return int(found[1])


def bytes_of(model: torch.nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def layers_of(model: torch.nn.Module, shape: tuple[int, int, int]) -> int:
    """Layers of which a measurement keeps sums: the input, every call of a leaf module, and the output."""
    calls = []
    for module in model.eval().modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    return len(calls) + 2


class Sizes:
    """Estimated bytes of each file of a config.

    Args:
        config: of the grid.
        run: folder of a finished run, of which small files are taken.
    """

    def __init__(self, config: Config, run: Path) -> None:
        self.config = config
        self.run = run

    def output(self, rule: str, path: str) -> int:
        """Of an output."""
        parts = Path(path).with_suffix("").parts
        dataset, *rest = parts[len(Path(self.config.results).parts) + 1 :]
        shape = (1, *[self.config.scale_detection.images.size] * 2) if PAIRS in parts else (3, 32, 32)
        image = 4 * shape[0] * shape[1] * shape[2]
        probes = self.config.scale_detection.probes if PAIRS in parts else self.config.probes.images
        match rule:
            case "prepare_dataset":
                return sum(CIFAR10.values()) * image // 4
            case "pair_dataset":
                return self.config.scale_detection.images.train_pairs + self.config.scale_detection.images.test_pairs
            case "noisy_test":
                return image * (self.config.scale_detection.images.test_pairs if PAIRS in parts else CIFAR10["test"])
            case "probes" | "pair_probes":
                return 3 * image * probes
            case "train":
                weights, _ = self._network(dataset, rest[0])
                return (3 + self._recipe(dataset, rest[0]).snapshots) * weights
            case "sensitivity" | "shuffled_sensitivity":
                # Two states; three sums for each layer and probe, in float64.
                shuffles = self.config.channel_shuffle.count if rule == "shuffled_sensitivity" else 1
                return 2 * shuffles * 3 * 8 * probes * self._network(dataset, rest[0])[1]
            case "imagenet_network":
                return 2 * self._pretrained(rest[0])
            case "train_ensemble":
                return self._ensemble(*rest[-2:])
        return self.small(f"{parts[len(Path(self.config.results).parts)]}/{rule}")

    def _recipe(self, dataset: str, architecture: str) -> Any:
        section = self.config.scale_detection.images if dataset == PAIRS else self.config
        return section.training_of(architecture)

    @functools.cache  # noqa: B019 - one object, which lives as long as the program
    def _network(self, dataset: str, architecture: str) -> tuple[int, int]:
        """Bytes of one state of a network, and its layers."""
        recipe = self._recipe(dataset, architecture)
        size = self.config.scale_detection.images.size
        shape, classes = ((1, size, size), 1 if recipe.loss == "hinge" else 2) if dataset == PAIRS else ((3, 32, 32), 10)
        model = relstab.build_model(architecture, shape, classes, recipe.width, recipe.activation, recipe.pooling)
        return bytes_of(model), layers_of(model, shape)

    @functools.cache  # noqa: B019
    def _pretrained(self, architecture: str) -> int:
        return bytes_of(build_torchvision(architecture))

    def _ensemble(self, experiment: str, activation: str) -> int:
        entry = self.config.scale_detection.experiments[experiment]
        states = 3 if EnsembleRecipe(**entry.recipe(activation)).decay_epochs else 2
        return 4 * states * entry.seeds * SimpleDesign(**entry.design(activation)).parameter_count

    @functools.cache  # noqa: B019
    def small(self, kind: str) -> int:
        """Mean size of the files in a folder of the finished run, as "logs/train", or in the one above where it has none."""
        for folder in (self.run / kind, (self.run / kind).parent):
            found = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            if found:
                return sum(found) // len(found)
        return 0


def kinds(jobs: list[Job], sizes: Sizes, results: str) -> Iterator[tuple[str, int, int]]:
    """Kind of file, number and estimated bytes."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for job in jobs:
        for output in job.outputs:
            parts = Path(output).relative_to(results).parts
            kind = "/".join(parts[:2]) if parts[0] == "scale_detection" else parts[0]
            where = {PAIRS: ", pairs", IMAGENET: ", imagenet"}.get(parts[1] if len(parts) > 2 else "", "")
            found[f"{kind}{where}{', shuffled' * (job.rule == 'shuffled_sensitivity')}"].append(sizes.output(job.rule, output))
        found["logs"] += [sizes.small(f"logs/{job.rule}") for _ in job.logs]
        found["benchmarks"] += [sizes.small(f"benchmarks/{job.rule}") for _ in range(job.benchmark is not None)]
    for kind, values in found.items():
        yield kind, len(values), sum(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 10000, 50000], help="besides the paper's grid as it is")
    parser.add_argument("--finished", type=int, default=10000, help="grids of about up to that many jobs are also finished")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--run", type=Path, default=ROOT / "results", help="a finished run, for the sizes of small files")
    parser.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    config = paper_config()
    sizes = Sizes(config, options.run)
    rows: list[dict[str, Any]] = []
    files: list[tuple[str, int, int]] = []

    def measure(what: str, run: Callable[[], Run], jobs: int | None = None) -> Run:
        """Take turns of one measurement, note the best and print it."""
        turns = [run() for _ in range(options.turns)]
        seconds, cpu = min(turn.seconds for turn in turns), min(turn.cpu_seconds for turn in turns)
        jobs = jobs or total(turns[0].text)
        row = {
            "what": what,
            "jobs": jobs,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2),
            "seconds_per_1000_jobs": round(1000 * seconds / jobs, 2),
            "mb": round(max(turn.mb for turn in turns)),
            "growth": "",
            "times_plan": "",
            "all_seconds": " ".join(f"{turn.seconds:.2f}" for turn in turns),
        }
        same = {(other["what"], other["jobs"]): other for other in rows}
        if smaller := max((n for w, n in same if w == what and n < jobs), default=None):
            row["growth"] = round((cpu / same[what, smaller]["cpu_seconds"]) / (jobs / smaller), 2)
        if what.startswith("no-op"):
            row["times_plan"] = round(cpu / same["plan", jobs]["cpu_seconds"], 2)
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""), flush=True)
        return turns[0]

    with tempfile.TemporaryDirectory() as temporary:
        for jobs in sorted([None, *options.jobs], key=lambda number: number or 1949):
            grid = Grid(Path(temporary) / str(jobs or "paper"), jobs)
            planned = measure("plan", grid.plan)
            count = total(planned.text)
            if jobs is not None and jobs > options.finished:
                continue
            made = jobs_of(planned.text)
            if len(made) != count:
                raise RuntimeError(f"{count} jobs are planned and {len(made)} were read")
            if jobs is None:
                files = list(kinds(made, sizes, config.results))
            grid.finish(made, sizes)
            measure("no-op", grid.no_op, count)
            measure("no-op run", grid.no_op_run, count)
            measure("one job", grid.one_job, count)
            if jobs is None:
                files.append(("metadata", *grid.metadata()))
    with options.table.open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    print(f"{'files of the paper grid':34}{'number':>8}{'GB (estimates)':>16}")
    for kind, number, size in sorted(files, key=lambda row: -row[2]):
        print(f"{kind:34}{number:8,}{size / 1e9:16.3f}")
    print(f"{'together':34}{sum(row[1] for row in files):8,}{sum(row[2] for row in files) / 1e9:16.3f}")


if __name__ == "__main__":
    main()
