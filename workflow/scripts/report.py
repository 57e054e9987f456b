"""Write the HTML report of the whole run with Snakemake."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from relstab.storage import whole_file

from job import job

with job(snakemake), tempfile.TemporaryDirectory() as folder, whole_file(snakemake.output.html) as temporary:
    config = Path(folder) / "config.json"
    config.write_text(json.dumps(snakemake.config))
    command = [
        "snakemake",
        "all",
        "--report",
        str(temporary),
        "--snakefile",
        str(Path(snakemake.scriptdir).resolve().parents[1] / "Snakefile"),
    ]
    # The run that makes the report holds the lock; reading what it made needs none.
    command += ["--nolock", "--configfile", str(config)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    if done.returncode:
        raise RuntimeError(f"snakemake --report failed; its output is in {snakemake.log[0]}")
