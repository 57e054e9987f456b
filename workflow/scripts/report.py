"""Write the HTML report of the whole run with Snakemake."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from relstab.files.hdf5 import atomic_path

from job import job

with job(snakemake), tempfile.TemporaryDirectory() as folder, atomic_path(snakemake.output.html) as temporary:
    config = Path(folder) / "config.json"
    config.write_text(json.dumps(snakemake.config))
    snakefile = Path(snakemake.scriptdir).resolve().parents[1] / "Snakefile"
    # The run that makes the report holds the lock; reading what it made needs none.
    options = ["--snakefile", snakefile, "--configfile", config, "--nolock", "--report", temporary]
    command = [sys.executable, "-m", "snakemake", "all", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    if done.returncode:
        raise RuntimeError(f"snakemake --report failed; its output is in {snakemake.log[0]}")
