"""The configs that are shipped: each can be run, and plans the jobs that its head says."""

import re

from helpers import ROOT

CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml"))


def head(path):
    """The comment that a config begins with."""
    return "\n".join(line[2:] for line in re.match(r"(#.*\n)+", path.read_text())[0].splitlines())


def test_the_papers_grid_is_planned_and_has_the_jobs_that_its_head_says(planners, tmp_path):
    path = ROOT / "configs" / "paper.yaml"
    text = planners.snakemake(tmp_path, "all", "--dry-run", "--cores", "2", config=path)
    stats = text.partition("Job stats:")[2].split("\n\n")[0]
    planned = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", stats, flags=re.MULTILINE)}
    total = planned.pop("total")
    said = {
        rule: int(count.replace(",", "")) for rule, count in re.findall(r"^  (\w+) +([\d,]+)", head(path), flags=re.MULTILINE)
    }
    assert said.pop("all") == 1
    assert said.pop("others") == sum(count for rule, count in planned.items() if rule not in said) - 1
    assert said == {rule: planned[rule] for rule in said}
    assert {"train", "sensitivity", "shuffled_sensitivity", "spectra", "train_ensemble", "imagenet_network"} <= said.keys()
    assert re.search(rf"\b{total:,} jobs", head(path))
