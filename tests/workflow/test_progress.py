"""What a run shows in a terminal and elsewhere while it runs, and when it has ended."""

import os
import pty
import re
import shutil
import subprocess

import pytest

from helpers import RESULTS, command, run


@pytest.fixture
def unfinished(finished, tmp_path):
    """The finished run without a figure that no other file needs."""
    folder = tmp_path / "unfinished"
    shutil.copytree(finished, folder, symlinks=True)
    for suffix in ("pdf", "png"):
        (folder / RESULTS / f"figures/fig02_pooling.{suffix}").unlink()
    return folder


def in_terminal(folder, *arguments):
    """What a run writes to a terminal."""
    reading, terminal = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        command(folder, *arguments), cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            part = os.read(reading, 65536)
        except OSError:  # Linux's sign that the other end was closed
            break
        if not part:
            break
        text += part
    os.close(reading)
    assert process.wait(timeout=60) == 0, text.decode(errors="replace")
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text.decode()).replace("\r", "\n")


def test_a_terminal_shows_a_panel_and_then_the_verdicts(unfinished):
    text = in_terminal(unfinished, "all", "--cores", "1")
    assert "Total Progress" in text
    assert "jobid:" not in text
    assert re.search(r"^claim +verdict +statistic", text, flags=re.MULTILINE)
    assert re.search(r"^figures +results/smoke/figures \(16", text, flags=re.MULTILINE)


def test_elsewhere_a_run_writes_one_line_per_job(unfinished):
    done = run(unfinished, "all", "--cores", "1")
    assert re.search(r"^1 of 2 jobs: figure figure=fig02_pooling$", done.stderr, flags=re.MULTILINE)
    assert "jobid:" not in done.stderr
    assert re.search(r"^12b +\w+", done.stderr, flags=re.MULTILINE)
    assert "report   results/smoke/report.html" in done.stderr
    everything = next((unfinished / ".snakemake/log").glob("*")).parent
    assert "jobid:" in max(everything.glob("*"), key=lambda path: path.stat().st_mtime).read_text()
