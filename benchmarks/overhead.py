"""How much of a run was not work: interpreter start, imports, Snakemake, idle cores.

    python benchmarks/overhead.py results [CORES]

Work is what scripts timed around their own computation (the last line of each log), less what was imported within it: torch's
optimizers load torch._dynamo when the first is made, and ResNets load torchvision, which loads it as well. These imports are
timed here, in fresh interpreters. All else of (wall time) x (cores) is overhead. The wall time is that of the longest run that
Snakemake logged in this folder: measure in a fresh clone.
"""

import csv
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path


def import_seconds(statement: str, after: str) -> float:
    """Median of 3 of the seconds that ``statement`` takes after ``after``."""
    code = f"import time; {after}; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    return sorted(float(run.stdout) for run in runs)[1]


def wall_seconds() -> float:
    """Seconds of the longest run that Snakemake logged here."""
    seconds = [0.0]
    for log in Path(".snakemake/log").glob("*.snakemake.log"):
        for hours, minutes, rest in re.findall(r"Elapsed time: (\d+):(\d+):([\d.]+)", log.read_text()):
            seconds.append(3600 * int(hours) + 60 * int(minutes) + float(rest))
    return max(seconds)


def main() -> None:
    """Print a table by rule and the share of overhead."""
    results = Path(sys.argv[1])
    cores = int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count() or 1
    dynamo = import_seconds("import torch._dynamo", "import torch")
    vision = import_seconds("import relstab.architectures.torchvision", "import torch, relstab.sensitivity")
    jobs: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for log in (results / "logs").rglob("*.log"):
        found = re.search(r"^work: ([\d.]+) s$", log.read_text(), re.MULTILINE)
        table = results / "benchmarks" / log.relative_to(results / "logs").with_suffix(".tsv")
        if not found or not table.exists():
            continue
        rule = log.relative_to(results / "logs").parts[0].removesuffix(".log")
        lazily = vision if "resnet" in str(log) and rule != "spectra" else dynamo if rule == "train" else 0.0
        with table.open() as file:
            wall = float(next(csv.DictReader(file, delimiter="\t"))["s"])
        jobs[rule].append((float(found[1]) - lazily, wall))
    total = wall_seconds() * cores
    if not jobs or not total:
        sys.exit(f"{results} holds no run of this checkout: `make figures` first")
    work = sum(seconds for rows in jobs.values() for seconds, _ in rows)
    print(f"{'rule':24}{'jobs':>6}{'work s':>10}{'wall s':>10}{'overhead a job s':>18}")
    for rule, rows in sorted(jobs.items(), key=lambda item: -sum(wall for _, wall in item[1])):
        worked, wall = (sum(column) for column in zip(*rows, strict=True))
        print(f"{rule:24}{len(rows):6}{worked:10.1f}{wall:10.1f}{(wall - worked) / len(rows):18.2f}")
    share = 1 - work / total
    print(f"{cores} cores for {total / cores:.0f} s: {work:.0f} of {total:.0f} core seconds are work, {share:.1%} is overhead")


if __name__ == "__main__":
    main()
