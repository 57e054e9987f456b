"""The workflow over pretrained networks: from files of weights and a folder of images to its two figures."""

import importlib.util
import os

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from relstab.architectures.imagenet_networks import build_imagenet_network
from relstab.files.network import in_file_names

from helpers import ROOT, run


def test_the_workflow_draws_both_figures_from_files_alone(planners, tmp_path):
    names = ["resnet18", "squeezenet1_1", *(["timm:test_resnet"] if importlib.util.find_spec("timm") else [])]
    for name in names:
        torch.save(build_imagenet_network(name, seed=11).state_dict(), tmp_path / f"{in_file_names(name)}.pth")
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        pixels = rng.integers(0, 256, (7, 9, 3), np.uint8)
        Image.fromarray(pixels).resize((90, 70), Image.Resampling.BICUBIC).save(tmp_path / f"images/{number}.png")
    section = {
        "networks": names,
        "weights": {name: f"{in_file_names(name)}.pth" for name in names},
        "images": "images", "probes": 6, "resize": 70, "crop": 64,
    }  # fmt: skip
    raw = yaml.safe_load((ROOT / "configs/smoke.yaml").read_text()) | {"imagenet": section, "results": "out", "device": "cpu"}
    raw["channel_shuffle"] = {"count": 1}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw))
    targets = [f"out/figures/{name}.png" for name in ("fig14_filter_spectra_imagenet", "imagenet_shuffled_layers")]
    run(tmp_path, *targets, "--cores", "2", config=config)
    for target in targets:
        assert (tmp_path / target).stat().st_size > 10_000
        assert (tmp_path / target).with_suffix(".pdf").exists()
    assert not (tmp_path / "out/networks/mnist5k").exists()  # the run's own networks are not trained for it
    sensitivity = pd.read_csv(tmp_path / "out/tables/imagenet_sensitivity.csv", dtype={"shuffle": str})
    assert set(sensitivity["architecture"]) == set(names)
    assert set(sensitivity["shuffle"]) == {"none", "0"}
    spectrum = pd.read_csv(tmp_path / "out/tables/imagenet_spectrum.csv")
    assert set(spectrum["state"]) == {"init", "trained"}

    # A run of everything has nothing of it left to do.
    assert "imagenet_network" not in planners.planned(tmp_path, config)
    # A new file of weights makes its network again, and no other.
    os.utime(tmp_path / "squeezenet1_1.pth")
    jobs = planners.planned(tmp_path, config)
    assert jobs["imagenet_network"] == {"networks/imagenet/squeezenet1_1/noise0/seed0.h5"}
    assert "imagenet_probes" not in jobs


def test_a_network_that_is_unknown_or_has_no_weights_ends_its_job_with_one_sentence(tmp_path):
    raw = yaml.safe_load((ROOT / "configs/smoke.yaml").read_text()) | {"results": "out", "device": "cpu"}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**raw, "imagenet": {"networks": ["resnet81"]}}))
    done = run(tmp_path, "out/figures/fig14_filter_spectra_imagenet.png", "--cores", "1", config=config, check=False)
    assert done.returncode != 0
    sentence = "relstab: imagenet_network (architecture resnet81): expected a name in torchvision.models.list_models"
    assert sentence in done.stdout + done.stderr
    config.write_text(yaml.safe_dump({**raw, "imagenet": {"networks": ["resnet18"], "weights": {"resnet18": "nowhere.pth"}}}))
    done = run(tmp_path, "out/figures/fig14_filter_spectra_imagenet.png", "--cores", "1", config=config, check=False)
    assert done.returncode != 0
    assert "nowhere.pth" in done.stdout + done.stderr
