"""Write the HTML report of the whole run, and Snakemake's own report beside it."""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from relstab.files.hdf5 import atomic_path, git_commit
from relstab.report import render_report
from relstab.tables.networks import read_table

from job import job

with job(snakemake), tempfile.TemporaryDirectory() as folder:
    options = snakemake.params.options
    files = [Path(file) for file in snakemake.input]
    tables = {path.stem: read_table(path) for path in files if path.suffix == ".csv"}
    versions = {"relstab commit": git_commit()} | {
        name: importlib.metadata.version(name) for name in ("torch", "snakemake", "numpy")
    }
    figures = [path for path in files if path.suffix == ".png"]
    page = render_report(tables, figures, options["config"], options["benchmarks"], versions)
    with atomic_path(snakemake.output.html) as temporary:
        temporary.write_text(page, encoding="utf-8")
    config = Path(folder) / "config.json"
    config.write_text(json.dumps(snakemake.config))
    snakefile = Path(snakemake.scriptdir).resolve().parents[1] / "Snakefile"
    with atomic_path(snakemake.output.workflow) as temporary:
        # The run that makes the report holds the lock; reading its results needs no lock.
        flags = ["--snakefile", snakefile, "--configfile", config, "--nolock", "--report", temporary]
        command = [sys.executable, "-m", "snakemake", "all", *map(str, flags)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout, done.stderr)
        if done.returncode:
            raise RuntimeError(f"snakemake --report failed; its output is in {snakemake.log[0]}")
