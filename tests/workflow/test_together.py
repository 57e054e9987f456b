"""Networks that share a job: on a CPU, which the workflow of these tests takes for a GPU."""

import shutil

import numpy as np
import pytest
import yaml

from helpers import RESULTS, SMOKE, contents, edited, run
from planning import to_run

NETWORKS = [f"{RESULTS}/networks/mnist5k/fc2/noise{noise}/seed0.h5" for noise in (0, 10)]


@pytest.fixture
def source(tmp_path):
    """A checkout whose jobs share the CPU as they would share a GPU."""
    return edited(tmp_path / "checkout", ("scripts/job.py", r" and torch\.cuda\.is_available\(\)$", ""))


def test_networks_that_share_a_job_are_those_of_their_own_jobs(finished, planners, source, tmp_path):
    """In all numbers; another seed trains that seed only; and neither sharing nor its end makes anything again."""
    config = yaml.safe_load(SMOKE.read_text()) | {"networks_per_job": 3}
    shared, more = tmp_path / "shared.yaml", tmp_path / "more.yaml"
    shared.write_text(yaml.safe_dump(config))
    more.write_text(yaml.safe_dump(config | {"seeds": 2}))
    shutil.copytree(finished / RESULTS / "datasets", tmp_path / RESULTS / "datasets")
    run(tmp_path, *NETWORKS, "--cores", "2", config=shared, source=source)
    for network in NETWORKS:
        one, two = contents(finished / network), contents(tmp_path / network)
        for found in (one, two):
            del found["/"]["git_commit"]  # the other checkout has none
        np.testing.assert_equal(two, one)
    logs = [(tmp_path / network.replace("networks", "logs/train")).with_suffix(".log").read_text() for network in NETWORKS]
    assert sorted(log.count("seed 0: epoch 1 of") for log in logs) == [0, 2]
    assert not list((tmp_path / RESULTS).rglob("*.checkpoints/trained.h5"))
    assert not list((tmp_path / RESULTS).glob(".planned*"))
    made = {network.removeprefix(f"{RESULTS}/") for network in NETWORKS}
    for config in (shared, SMOKE, more):
        again = to_run(planners.plan(tmp_path, config, source=source))
        files = again["train"] | again.get("train_together", set())
        assert made.isdisjoint(files)
        assert ("networks/mnist5k/fc2/noise0/seed1.h5" in files) == (config == more)
