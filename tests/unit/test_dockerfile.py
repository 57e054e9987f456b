"""The Dockerfile, without Docker: what it copies is there, and its commands install what they say."""

import fnmatch
import os
import re
import subprocess

import pytest

from helpers import ROOT

INSTRUCTIONS = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ").splitlines()
IGNORED = (ROOT / ".dockerignore").read_text().split()


def arguments(instruction):
    return [line.removeprefix(instruction).strip() for line in INSTRUCTIONS if line.startswith(f"{instruction} ")]


def test_what_it_copies_is_in_the_build_context():
    copied = [source for line in arguments("COPY") for source in line.split()[:-1]]
    assert {"pyproject.toml", "constraints.txt", "src", "."} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in IGNORED if source != "."), source


def installs(tmp_path, device):
    """What RUN passes to pip, by the shell that would run it."""
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DEVICE": device}
    (run,) = arguments("RUN")
    return subprocess.run(["sh", "-c", run], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_argument_chooses_the_wheels(tmp_path, device):
    assert "DEVICE=cpu" in arguments("ARG")
    words = installs(tmp_path, device).stdout.split()
    assert words[0] == "install"
    assert words[words.index("--constraint") + 1] == "constraints.txt"
    assert words[-2:] == ["--editable", ".[pipeline]"]
    assert any(word.endswith("/whl/cpu") for word in words) == (device == "cpu")


def test_another_device_stops_the_build_with_a_sentence(tmp_path):
    done = installs(tmp_path, "tpu")
    assert done.returncode == 1
    assert done.stderr.strip() == "expected DEVICE to be cpu or cuda, got tpu"
    assert not done.stdout
