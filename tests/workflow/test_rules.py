"""What every rule of the workflow has, asked of Snakemake's own rule objects."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from helpers import ROOT, SMOKE, copy_checkout

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


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A config with which every rule has a job."""
    config = yaml.safe_load(SMOKE.read_text())
    config["imagenet"] = {"networks": ["resnet18"], "images": "some"}
    config["probes"]["sweep"] = [{"displacement": 1, "cutoff": 3}]
    path = tmp_path_factory.mktemp("everything") / "everything.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def load(snakefile, config):
    done = subprocess.run([sys.executable, "-c", LOAD, snakefile, config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def rules(everything):
    return load(ROOT / "Snakefile", everything)


def missing(rules):
    jobs = {name: rule for name, rule in rules.items() if name not in TARGETS}
    parts = ("script", "log", "benchmark", "conda", "threads", "memory", "runtime")
    return {f"{name}: {part}" for name, rule in jobs.items() for part in parts if not rule[part]}


def test_every_rule_has_all_that_a_rule_has(rules):
    assert set(rules) > TARGETS
    assert len(rules) > 25
    assert missing(rules) == set()


def edited(folder, *edits):
    """A copy of what a run reads of this checkout, with other texts in files of workflow/rules."""
    copy_checkout(folder)
    for name, pattern, new in edits:
        path = folder / "workflow/rules" / name
        text, count = re.subn(pattern, new, path.read_text(), flags=re.MULTILINE)
        assert count == 1, f"expected {pattern} once in {name}, got {count}"
        path.write_text(text)
    return folder


def test_a_rule_without_one_part_is_noticed(everything, tmp_path):
    """The test above can fail."""
    parts = {"spectra": "log", "sensitivity_sweep": "benchmark", "train": "script"}
    files = {"spectra": "spectra.smk", "sensitivity_sweep": "sensitivity.smk", "train": "networks.smk"}
    edits = [(files[rule], rf"(^rule {rule}:\n(?:    .*\n)*?)    {part}:\n        .*\n", r"\1") for rule, part in parts.items()]
    snakefile = edited(tmp_path / "checkout", *edits) / "Snakefile"
    assert missing(load(snakefile, everything)) == {f"{rule}: {part}" for rule, part in parts.items()}


def test_all_params_of_a_rule_are_one_dict(rules):
    """Snakemake compares params without their names, so that two numbers that change places would go unnoticed."""
    assert {name for name, rule in rules.items() if rule["params"] not in ([], ["options"])} == set()


def test_every_script_and_every_caption_has_its_rule(rules):
    scripts = {rule["script"] for rule in rules.values()} - {None}
    captions = {caption for rule in rules.values() for caption in rule["captions"]}
    assert scripts == {path.name for path in (ROOT / "workflow/scripts").glob("*.py")} - {"job.py"}
    assert captions == {path.name for path in (ROOT / "workflow/report").glob("*.rst")}


# ---- What each rule reads ------------------------------------------------------------------------------------------------------

# The rules from which each rule reads, of a run that has everything. The rerun matrix takes its edges from Snakemake's graph, and
# would not notice that an input is missing. The tables of a figure are in FIGURES, and without one of them it cannot be drawn.
READS = {
    "prepare_dataset": "",
    "noisy_test": "prepare_dataset pair_dataset",
    "probes": "noisy_test",
    "train": "prepare_dataset pair_dataset noisy_test",
    "sensitivity": "train imagenet_network probes pair_probes imagenet_probes",
    "shuffled_sensitivity": "train imagenet_network probes imagenet_probes",
    "sensitivity_over_training": "train probes",
    "sensitivity_sweep": "train noisy_test",
    "spectra": "train imagenet_network",
    "imagenet_images": "",
    "imagenet_probes": "imagenet_images",
    "imagenet_network": "imagenet_images",
    "pair_dataset": "",
    "pair_probes": "pair_dataset",
    "train_ensemble": "",
    "ensemble_sensitivity": "train_ensemble",
    "homogeneous_sensitivity": "",
    "table_networks": "train",
    "table_history": "train",
    "table_sensitivity": "sensitivity shuffled_sensitivity",
    "table_over_training": "sensitivity_over_training",
    "table_sensitivity_sweep": "sensitivity_sweep",
    "table_spectrum": "spectra",
    "table_correlation": "table_networks table_sensitivity",
    "table_claims": "table_networks table_sensitivity table_spectrum table_scale_detection_layers table_scale_detection "
                    "table_scale_detection_networks table_scale_detection_sensitivity",
    "table_scale_detection_samples": "",
    "table_scale_detection_layers": "ensemble_sensitivity homogeneous_sensitivity",
    "table_scale_detection": "table_scale_detection_layers",
    "table_scale_detection_networks": "train",
    "table_scale_detection_sensitivity": "sensitivity",
    "table_scale_detection_correlation": "table_scale_detection_networks table_scale_detection_sensitivity",
    "table_imagenet_spectrum": "spectra",
    "table_imagenet_sensitivity": "sensitivity shuffled_sensitivity",
    "figure": "noisy_test probes",
}  # fmt: skip


def reads(planners, folder, config, source=ROOT):
    """The rules from which each rule reads."""
    jobs = planners.plan(folder, config, target="report", source=source)
    found = {job.rule: set() for job in jobs if job.outputs}
    for job in jobs:
        if job.outputs:
            found[job.rule] |= {jobs[index].rule for index in job.after}
    found["figure"] = {rule for rule in found["figure"] if not rule.startswith("table_")}
    return found


EXPECTED = {rule: set(others.split()) for rule, others in READS.items()}
EXPECTED["report_page"] = {rule for rule in READS if rule == "figure" or rule.startswith("table_")}


def test_every_rule_reads_what_it_is_made_from(planners, rules, everything, tmp_path):
    assert EXPECTED.keys() == rules.keys() - TARGETS, "expected one line of READS per rule"
    assert reads(planners, tmp_path, everything) == EXPECTED


def test_an_input_that_a_rule_forgets_is_noticed(planners, everything, tmp_path):
    """The test above can fail."""
    source = edited(
        tmp_path / "checkout",
        ("tables.smk", r"^ +\*\*\(\{f\"pair_.*HAS_PAIRS.*\n", ""),
        ("sensitivity.smk", r"(^rule sensitivity_over_training:\n    input:\n.*\n) +probes=.*\n", r"\1"),
    )
    found = reads(planners, tmp_path, everything, source)
    assert {rule: others - found[rule] for rule, others in EXPECTED.items() if others != found[rule]} == {
        "table_claims": {"table_scale_detection_networks", "table_scale_detection_sensitivity"},
        "sensitivity_over_training": {"probes"},
    }
