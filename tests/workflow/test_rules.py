"""What every rule of the workflow has, asked of Snakemake's own rule objects."""

import json
import subprocess
import sys

import pytest

from helpers import ROOT, SMOKE

# Targets: rules without a job of their own.
TARGETS = {"all", "all_figures", "all_tables", "claims", "report"}

# Loads the workflow as Snakemake does and prints what each rule has.
LOAD = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings, Quietness

snakefile, config = map(Path, sys.argv[1:])
with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    loaded = api.workflow(
        resource_settings=ResourceSettings(cores=1), config_settings=ConfigSettings(configfiles=[config]), snakefile=snakefile
    )
    workflow = loaded._workflow
    rules = {
        rule.name: {
            "script": Path(rule.script).name if rule.script else None,
            "log": bool(rule.log),
            "benchmark": rule.benchmark is not None,
            "conda": bool(rule.conda_env),
            "threads": "_cores" in rule.resources,
            "memory": "mem_mb" in rule.resources,
            "runtime": "runtime" in rule.resources,
            "params": sorted(rule.params.keys()) + ["positional"] * (len(rule.params) - len(rule.params.keys())),
            "captions": [Path(str(flag.caption)).name for file in rule.output for flag in [file.flags.get("report")] if flag],
        }
        for rule in workflow.rules
    }
print(json.dumps(rules))
"""


def load(snakefile):
    done = subprocess.run([sys.executable, "-c", LOAD, snakefile, SMOKE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def rules():
    return load(ROOT / "Snakefile")


def missing(rules):
    jobs = {name: rule for name, rule in rules.items() if name not in TARGETS}
    parts = ("script", "log", "benchmark", "conda", "threads", "memory", "runtime")
    return {f"{name}: {part}" for name, rule in jobs.items() for part in parts if not rule[part]}


def test_every_rule_has_all_that_a_rule_has(rules):
    assert set(rules) > TARGETS
    assert len(rules) > 25
    assert missing(rules) == set()


@pytest.mark.parametrize(("part", "line"), [("log", "    log:"), ("benchmark", "    benchmark:"), ("script", "    script:")])
def test_a_rule_without_one_part_is_noticed(tmp_path, part, line):
    """The test above can fail."""
    checkout = tmp_path / "checkout"
    for name in ("workflow", "src", "envs"):
        (checkout / name).parent.mkdir(exist_ok=True, parents=True)
        subprocess.run(["cp", "-r", ROOT / name, checkout / name], check=True)
    for name in ("Snakefile", "config.yaml"):
        subprocess.run(["cp", ROOT / name, checkout / name], check=True)
    file = checkout / "workflow/rules/spectra.smk"
    lines = file.read_text().splitlines()
    start = lines.index(line)
    del lines[start : start + 2]
    file.write_text("\n".join(lines) + "\n")
    assert missing(load(checkout / "Snakefile")) == {f"spectra: {part}"}


def test_all_params_of_a_rule_are_one_dict(rules):
    """Snakemake compares params without their names, so that two numbers that change places would go unnoticed."""
    assert {name for name, rule in rules.items() if rule["params"] not in ([], ["options"])} == set()


def test_every_script_and_every_caption_has_its_rule(rules):
    scripts = {rule["script"] for rule in rules.values()} - {None}
    captions = {caption for rule in rules.values() for caption in rule["captions"]}
    assert scripts == {path.name for path in (ROOT / "workflow/scripts").glob("*.py")} - {"job.py"}
    assert captions == {path.name for path in (ROOT / "workflow/report").glob("*.rst")}
