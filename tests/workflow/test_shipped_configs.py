"""The configs that are shipped: each can be run, and plans the jobs that its head says."""

import re

import pytest
import yaml
from snakemake.utils import update_config

from relstab.config import load_config

from helpers import ROOT

CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml"))


def merged(path):
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(raw, yaml.safe_load(path.read_text()))
    return raw


def head(path):
    """The comment that a config begins with."""
    return "\n".join(line[2:] for line in re.match(r"(#.*\n)+", path.read_text())[0].splitlines())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_an_overlay_of_the_default(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # the files of own.yaml stand there
    default = load_config(yaml.safe_load((ROOT / "config.yaml").read_text()))
    config = load_config(merged(path), path.name)
    assert config.results != default.results
    assert "$schema=schema.json" in path.read_text().splitlines()[0]
    # What the default config says of single architectures does not reach into it unseen.
    own = yaml.safe_load(path.read_text())
    if "epochs" in own.get("training", {}):
        for name in config.architectures:
            expected = own["recipes"].get(name, {}).get("epochs", own["training"]["epochs"])
            assert config.training_of(name).epochs == expected, name
        asked = own["training"].get("width", 1.0)
        for name in config.architectures:
            assert config.training_of(name).width == own.get("recipes", {}).get(name, {}).get("width", asked), name


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


def test_the_papers_grid_is_that_of_the_paper():
    config = load_config(merged(ROOT / "configs" / "paper.yaml"))
    assert config.data.name == "cifar10"
    assert len(config.architectures) == 13
    assert config.noise == [0, 0.01, 0.1, 1, 10, 30, 100]
    assert {name: len(config.seeds_of(name)) for name in ("fc2", "fc4", "fc6", "lenet", "resnet50")} == {
        "fc2": 11, "fc4": 11, "fc6": 11, "lenet": 4, "resnet50": 4,
    }  # fmt: skip
    for name in config.architectures:
        recipe = config.training_of(name)
        assert (recipe.epochs, recipe.batch_size, recipe.schedule_fraction, recipe.width) == (250, 128, 0.8, 1), name
        assert (recipe.crop_padding, recipe.flip) == (4, True), name
    assert config.probes.images == 500
    assert config.channel_shuffle.count == 5
    assert "vgg16_bn" in config.imagenet.networks
    assert config.scale_detection.experiments["task1_strided"].channels == 1000
