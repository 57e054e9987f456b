"""Results of another config under today's names, with Snakemake's own record gone. Nothing is run here: it is planned."""

import shutil
import subprocess
import sys

import pytest
import yaml

from relstab.files.hdf5 import planned_as
from relstab.files.plan import plan_of
from relstab.stages.datasets import write_noisy_test

from helpers import ROOT

OTHER = 5


@pytest.mark.slow
def test_files_of_another_config_are_made_again_without_snakemakes_record(tmp_path):
    """Noise level 0 is as planned, level 10 is of another seed, and a renamed folder changes nothing of that."""
    from relstab.stages.datasets import prepare_dataset

    results = tmp_path / "results"
    config = tmp_path / "mine.yaml"
    values = {"results": str(results), "architectures": ["fc2"], "noise": [0, 10], "seeds": 1}
    values["data"] = {"train_images": 100, "test_images": 60}
    values["probes"] = {"images": 20}
    config.write_text(yaml.safe_dump(values))

    def plan(target):
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", config, "--cores", "1"]
        done = subprocess.run([*command, "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    options = {"train_images": 100, "test_images": 60, "mean": None, "std": None, "seed": 0, "source": ""}
    dataset = results / "datasets" / "mnist5k.h5"
    with planned_as(plan_of("prepare_dataset", {"dataset": "mnist5k"}, options, dataset, results)):
        prepare_dataset(dataset, "mnist5k", train_images=100, test_images=60)
    levels = {}
    for noise, seed in (("0", 0), ("10", OTHER)):
        path = levels[noise] = results / "datasets" / "mnist5k" / f"test_noise{noise}.h5"
        wildcards = {"dataset": "mnist5k", "noise": noise}
        with planned_as(plan_of("noisy_test", wildcards, {"seed": seed}, path, results)):
            write_noisy_test(path, dataset, float(noise), seed)
    assert "Nothing to be done" in plan(levels["0"])
    assert f"not made with this config, so made again: {levels['10']}" in plan(levels["10"])
    # A file without a record, and Snakemake has none either.
    dataset.write_bytes(b"\x89HDF")
    assert f"not made with this config, so made again: {dataset}" in plan(dataset)
    shutil.move(results, tmp_path / "renamed")
    config.write_text(yaml.safe_dump(values | {"results": str(tmp_path / "renamed")}))
    assert "not made with this config" in plan(tmp_path / "renamed/datasets/mnist5k/test_noise10.h5")
