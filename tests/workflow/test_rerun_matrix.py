"""What a change makes anew: by key of the config the exact jobs that a run then plans; and what around a run changes nothing.

Most rows start from the finished smoke run. What it does not have (a data set and architectures of one's own, a folder of images,
torchvision's networks) stands in two folders whose files are empty and were marked as made, which is all that planning looks at.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
import typing
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from relstab.config import Config, Training

from helpers import ENSEMBLES, ROOT, SMOKE, jobs_in, planned

FIGURES = {"fig01", "fig03", "fig04", "fig10", "fig11", "over_training"}
ALL_TABLES = {"table_networks", "table_sensitivity", "table_spectrum", "table_correlation", "table_claims", "table_over_training"}
COLLECTING = FIGURES | ALL_TABLES
# What follows a training of simple CNNs, and of a deep network on images with two lit pixels; claims follow both.
OF_ENSEMBLES = {"table_scale_detection_layers", "table_scale_detection", "fig07", "relu_tanh", "table_claims"}
OF_PAIRS = {
    "table_scale_detection_networks",
    "table_scale_detection_sensitivity",
    "table_scale_detection_correlation",
    "fig06",
    "fig08",
    "fig09",
    "table_claims",
}
SCALE_FIGURES = {"fig05", "fig06", "fig07", "fig08", "fig09", "relu_tanh"}
PAIR_NETWORK = "networks/pairs/lenet/noise0/seed0.h5"
PAIR_SENSITIVITY = "sensitivity/pairs/lenet/noise0/seed0.h5"

Jobs = dict[str, set[str] | int]
"""By rule the files of its jobs, the first of each; or the number of them, where it says enough."""


# ---- Planning ------------------------------------------------------------------------------------------------------------------

WORKERS = 3

# Snakemake's command line, imported once with what it imports while it plans: each call is a process of its own, forked from this
# one, as if just started. The library of this project is not among it: it is that of the checkout whose Snakefile is called.
PLANNER = """
import json, os, sys
import h5py, jsonschema, nbformat, numpy, pydantic, requests, smart_open, tqdm, yaml
from snakemake.cli import get_argument_parser, main
import snakemake.storage

get_argument_parser()  # finds the plugins

for line in sys.stdin:
    folder, arguments, out = json.loads(line)
    child = os.fork()
    if not child:
        code = 1
        try:
            file = os.open(out, os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.chdir(folder)
            sys.argv[1:] = arguments
            main(arguments)
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Planners:
    """Snakemake's command line without its second of start, several calls at a time."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.processes = [
            subprocess.Popen([sys.executable, "-c", PLANNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(WORKERS)
        ]
        self.idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        for process in self.processes:
            self.idle.put(process)
        self.pool = ThreadPoolExecutor(WORKERS)

    def snakemake(self, folder: Path, *arguments: str, source: Path = ROOT) -> str:
        """What Snakemake says when it is called in ``folder``."""
        process = self.idle.get()
        try:
            with tempfile.NamedTemporaryFile("r", dir=self.scratch, suffix=".txt") as out:
                called = ["--snakefile", str(source / "Snakefile"), "--directory", str(folder), *arguments]
                print(json.dumps([str(folder), called, out.name]), file=process.stdin, flush=True)
                code = process.stdout.readline().strip()
                text = out.read()
        finally:
            self.idle.put(process)
        if code != "0":
            raise RuntimeError(f"snakemake {' '.join(called)}: {text}")
        return text

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        for process in self.processes:
            process.stdin.close()
            process.wait(timeout=60)
            process.stdout.close()


@pytest.fixture(scope="module")
def planners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planners]:
    planners = Planners(tmp_path_factory.mktemp("planners"))
    yield planners
    planners.close()


# ---- Where the rows start from -------------------------------------------------------------------------------------------------

# A data set of one's own, and enough convolutional networks, two of them of one's own, for figures 12 and 13.
OWN = {
    "results": "results/own",
    "data": {"name": "gratings", "function": "code/gratings.py:gratings", "root": "files", "test_images": 200},
    "own_architectures": {
        "plain": {"builder": "code/two_layers.py:build", "label": "plain"},
        "skipping": {"builder": "code/two_layers.py:build", "label": "skipping", "skips": True},
    },
    "architectures": ["plain", "skipping", "lenet", "vgg11", "vgg13", "vgg16", "vgg19", "resnet18"],
    "noise": [0], "seeds": 1, "probes": {"images": 20}, "scale_detection": {"enabled": False},
}  # fmt: skip

# A folder of images, and networks of torchvision.
FOLDER = {
    "results": "results/folder",
    "data": {"name": "imagefolder", "root": "photos", "imagefolder": {"size": 32, "fit": "crop"}},
    "architectures": ["lenet"], "noise": [0], "seeds": 1, "probes": {"images": 20}, "scale_detection": {"enabled": False},
    "imagenet": {
        "networks": ["resnet18", "alexnet"], "weights": {"resnet18": "first.pth"},
        "images": "validation", "probes": 10, "resize": 70, "crop": 64,
    },
}  # fmt: skip

# Two sizes of the training set, and further displacements of one architecture.
AXES = {
    "results": "results/axes",
    "data": {"train_images": [50, 200], "test_images": 100},
    "architectures": ["fc2", "lenet"], "noise": [0], "seeds": 1, "scale_detection": {"enabled": False},
    "probes": {"images": 20, "sweep": [{"displacement": 1, "cutoff": 3}], "sweep_architectures": ["lenet"]},
}  # fmt: skip

STARTS = {"smoke": yaml.safe_load(SMOKE.read_text()), "own": OWN, "folder": FOLDER, "axes": AXES}


def plant(planners: Planners, folder: Path, raw: Mapping[str, Any]) -> Path:
    """A folder in which everything that ``raw`` asks for is as if a run had made it, and empty."""
    shutil.copytree(ROOT / "configs/own", folder / "code")
    shutil.copyfile(folder / "code/two_layers.py", folder / "code/again.py")
    shutil.copyfile(folder / "code/gratings.py", folder / "code/gratings_again.py")
    for name in ("first.pth", "second.pth"):
        (folder / name).touch()
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(raw))
    arguments = ("all", "--cores", "8", "--configfile", str(config))
    text = planners.snakemake(folder, *arguments, "--dry-run")
    for outputs in re.findall(r"^    output: (.+)$", text, flags=re.MULTILINE):
        for output in outputs.split(", "):
            path = folder / output
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    planners.snakemake(folder, *arguments, "--touch", "--forceall")
    return folder


# ---- The jobs that follow from a change ----------------------------------------------------------------------------------------

NOT_CONVOLUTIONAL = {"fc2"}
OF_NETWORK = {
    "train": "networks/{}.h5",
    "sensitivity": "sensitivity/{}.h5",
    "shuffled_sensitivity": "sensitivity/{}_shuffled.h5",
    "spectra": "spectra/{}.h5",
    "sensitivity_over_training": "sensitivity/{}_over_training.h5",
    "sensitivity_sweep": "sensitivity/{}_sweep.h5",
}
MEASURED = {"sensitivity", "shuffled_sensitivity", "sensitivity_over_training"}
ARCHITECTURES = ("fc2", "lenet", "vgg11_bn")


def once(*rules: str) -> Jobs:
    """One job of each of these rules."""
    return dict.fromkeys(rules, 1)


def of_networks(
    *architectures: str,
    dataset: str = "mnist5k",
    noise: tuple[float, ...] = (0, 10),
    seeds: tuple[int, ...] = (0,),
    shuffled: tuple[float, ...] = (0,),
    followed: tuple[str, ...] = ("lenet",),
    swept: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (),
    rules: typing.Collection[str] = tuple(OF_NETWORK),
) -> Jobs:
    """Jobs of ``rules`` on the networks of these architectures, noise levels and seeds."""
    jobs: dict[str, set[str]] = {}
    for rule in rules:
        for architecture in architectures:
            if rule in ("shuffled_sensitivity", "spectra") and architecture in NOT_CONVOLUTIONAL:
                continue
            if rule == "sensitivity_over_training" and architecture not in followed:
                continue
            if rule == "sensitivity_sweep" and architecture not in swept:
                continue
            levels = [level for level in noise if rule != "shuffled_sensitivity" or level in shuffled]
            folders = [f"noise{level:g}{subset}" for level in levels for subset in ([f"_images{size}" for size in sizes] or [""])]
            names = {f"{dataset}/{architecture}/{folder}/seed{seed}" for folder in folders for seed in seeds}
            jobs.setdefault(rule, set()).update(OF_NETWORK[rule].format(name) for name in names)
    return {rule: files for rule, files in jobs.items() if files}


def collecting(*architectures: str) -> Jobs:
    """Tables and figures that other networks of these architectures make anew."""
    without = set()
    if not set(architectures) - NOT_CONVOLUTIONAL:
        without.add("table_spectrum")
    if "lenet" not in architectures:
        without.add("table_over_training")
    return once(*COLLECTING - without)


def trained(*architectures: str, **options: Any) -> Jobs:
    """All that follows when these networks of the smoke run are trained anew, or for the first time."""
    return of_networks(*architectures, **options) | collecting(*architectures) if architectures else {}


def data_anew(dataset: str = "mnist5k", noise: tuple[float, ...] = (0, 10)) -> Jobs:
    """A data set of the smoke run and all that follows."""
    return {
        "prepare_dataset": {f"datasets/{dataset}.h5"},
        "noisy_test": {f"datasets/{dataset}/test_noise{level:g}.h5" for level in noise},
        "probes": {f"probes/{dataset}/noise{level:g}.h5" for level in noise},
        **trained(*ARCHITECTURES, dataset=dataset, noise=noise),
    }


# What follows from sensitivities that were measured anew, on the data set.
OF_SENSITIVITY = {"table_sensitivity", "table_correlation", "table_claims", "fig01", "fig03", "fig10", "fig11"}
NEW_PROBES = {
    "probes": {"probes/mnist5k/noise0.h5", "probes/mnist5k/noise10.h5"},
    **of_networks(*ARCHITECTURES, rules=MEASURED),
    **once("table_over_training", "over_training", *OF_SENSITIVITY),
}
NEW_SHUFFLES = of_networks("lenet", "vgg11_bn", rules=["shuffled_sensitivity"]) | once(*OF_SENSITIVITY)
# The networks' table says which have learned; spectra, sensitivities and their tables do not depend on it.
LEARNED_OR_NOT = once("table_networks", "table_correlation", "table_claims", *FIGURES) | once(
    "table_scale_detection_networks", "table_scale_detection_correlation", "fig06", "fig08", "fig09"
)
INTERVALS = once(
    "table_correlation", "table_claims", "fig01", "fig10",
    "table_scale_detection", "fig07", "relu_tanh", "table_scale_detection_correlation", "fig06",
)  # fmt: skip
PAIR_TRAINED = {"train": {PAIR_NETWORK}, "sensitivity": {PAIR_SENSITIVITY}, **once(*OF_PAIRS)}
PAIR_REMEASURED = {"sensitivity": {PAIR_SENSITIVITY}, **once(*OF_PAIRS - {"table_scale_detection_networks"})}
OTHER_PAIRS = {**once("pair_dataset", "pair_probes"), "noisy_test": {"datasets/pairs/test_noise0.h5"}, **PAIR_TRAINED}
OTHER_TASK = OTHER_PAIRS | once("table_scale_detection_samples", "fig05")


def together(*parts: Jobs) -> Jobs:
    """Jobs of all parts; a rule of several has the files of each."""
    jobs: Jobs = {}
    for part in parts:
        for rule, files in part.items():
            known = jobs.get(rule, files)
            jobs[rule] = files if isinstance(files, int) or isinstance(known, int) else known | files
    return jobs


def ensembles(*names: str) -> Jobs:
    """Simple CNNs of these experiments and activations, and what follows."""
    return {
        "train_ensemble": {f"scale_detection/networks/{name}.h5" for name in names},
        "ensemble_sensitivity": {f"scale_detection/sensitivity/{name}.h5" for name in names},
        **once(*OF_ENSEMBLES),
    }


SMOKE_WITHOUT_FIGURE_2 = together(data_anew(), OTHER_TASK, ensembles(*ENSEMBLES), once("homogeneous_sensitivity", *SCALE_FIGURES))


# ---- The matrix ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A change of the config, and the jobs that are then to do.

    The first key of the change is the one that the row is about; others are what it needs beside it.
    """

    change: dict[str, Any]
    jobs: Jobs
    start: str = "smoke"
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", next(iter(self.change)))

    def __str__(self) -> str:
        value = self.change[self.key]
        text = "{...}" if isinstance(value, dict) and value else str(value)
        return f"{self.start}: {self.key}={text}"


NOTHING: Jobs = {}

# How training goes, by key: another value, and the networks of the smoke run that it reaches when it stands under training. The
# others have their own: fc2 its optimizer, rate and decay, lenet its rate; and recipes say epochs, widths and snapshots of some.
HOW_TRAINED: dict[str, tuple[Any, str]] = {
    "epochs": (4, ""),
    "steps_per_epoch": (7, "fc2 lenet vgg11_bn"),
    "batch_size": (32, "lenet vgg11_bn"),
    "loss": ("hinge", "fc2 lenet vgg11_bn"),
    "optimizer": ("adam", "lenet vgg11_bn"),
    "learning_rate": (0.03, "vgg11_bn"),
    "momentum": (0.8, "lenet vgg11_bn"),
    "weight_decay": (0.001, "lenet vgg11_bn"),
    "schedule": ("constant", "fc2 lenet vgg11_bn"),
    "schedule_fraction": (0.7, "fc2 lenet vgg11_bn"),
    "warmup_epochs": (0.5, "fc2 lenet vgg11_bn"),
    "initialization": ("he", "fc2 lenet vgg11_bn"),
    "width": (0.5, "lenet"),
    "activation": ("tanh", "fc2 lenet vgg11_bn"),
    "pooling": ("none", "lenet vgg11_bn"),
    "crop_padding": (2, "fc2 lenet vgg11_bn"),
    "flip": (True, "fc2 lenet vgg11_bn"),
    "diffeo_displacement": (0.5, "fc2 lenet vgg11_bn"),
    "diffeo_cutoff": (4, ""),
    "precision": ("bfloat16", "fc2 lenet vgg11_bn"),
    "compile": (True, "fc2 lenet vgg11_bn"),
}


def rows_of_trainings() -> Iterator[Row]:
    """The keys of training and recipes, of both kinds of deep networks: each kind is its own."""
    for key, (value, names) in HOW_TRAINED.items():
        yield Row({f"training.{key}": value}, trained(*names.split()))
        # lenet's own settings win over what its recipe gets from elsewhere, and reach no other network.
        without_effect = key == "diffeo_cutoff"
        value = {"epochs": 7, "loss": "hinge"}.get(key, value)
        yield Row({f"recipes.lenet.{key}": value}, {} if without_effect else trained("lenet"))
        value = {"batch_size": 16, "loss": "cross_entropy"}.get(key, value)
        own = key in ("epochs", "learning_rate")
        yield Row({f"scale_detection.images.training.{key}": value}, {} if own or without_effect else PAIR_TRAINED)
        yield Row({f"scale_detection.images.recipes.lenet.{key}": value}, {} if without_effect else PAIR_TRAINED)
    # What a recipe says reaches networks that have their own.
    yield Row({"recipes.fc2.weight_decay": 0.1}, trained("fc2"))
    yield Row({"training.snapshots": 2}, trained(*ARCHITECTURES[::2], followed=ARCHITECTURES) | once("table_over_training"))
    yield Row({"recipes.lenet.snapshots": 5}, trained("lenet"))


ONE_EXPERIMENT = "scale_detection.simple.task1_stride1"
BOTH_ACTIVATIONS = ensembles("task1_stride1/relu", "task1_stride1/tanh")
RELU_ONLY = ensembles("task1_stride1/relu")
ITS_TASK = BOTH_ACTIVATIONS | once("table_scale_detection_samples", "fig05")

# Of the folder with two architectures of one's own: all figures and tables of its networks.
OWN_FIGURES = {"fig01", "fig03", "fig04", "fig10", "fig11", "fig12", "fig13"}
OWN_TABLES = ALL_TABLES - {"table_over_training"}
ON_GRATINGS: dict[str, Any] = {"dataset": "gratings", "noise": (0,), "followed": ()}
GRATINGS_ANEW = {
    **once("prepare_dataset", "noisy_test", "probes", *OWN_FIGURES, *OWN_TABLES),
    **of_networks(*OWN["architectures"], **ON_GRATINGS),
}

# Of the folder with images in folders and torchvision's networks.
ON_FOLDER: dict[str, Any] = {"dataset": "imagefolder", "noise": (0,), "followed": ()}
FOLDER_ANEW = {
    **once("prepare_dataset", "noisy_test", "probes", *FIGURES - {"over_training"}, *OWN_TABLES),
    **of_networks("lenet", **ON_FOLDER),
}
OF_IMAGENET_SENSITIVITY = once("table_imagenet_sensitivity", "imagenet_shuffled_layers")
OF_IMAGENET_SPECTRA = once("table_imagenet_spectrum", "fig14")


def on_imagenet(*names: str, rules: typing.Collection[str] = ("train", "sensitivity", "shuffled_sensitivity", "spectra")) -> Jobs:
    jobs = of_networks(*names, dataset="imagenet", noise=(0,), rules=rules)
    return {{"train": "imagenet_network"}.get(rule, rule): files for rule, files in jobs.items()}


IMAGENET_MEASURED = on_imagenet("resnet18", "alexnet", rules=["sensitivity", "shuffled_sensitivity"]) | OF_IMAGENET_SENSITIVITY
IMAGENET_ANEW = {
    **once("imagenet_images", "imagenet_probes"),
    **on_imagenet("resnet18", "alexnet"),
    **OF_IMAGENET_SENSITIVITY,
    **OF_IMAGENET_SPECTRA,
}
FOLDER_MEASURED = of_networks("lenet", **ON_FOLDER, rules=["sensitivity", "shuffled_sensitivity"]) | once(*OF_SENSITIVITY)
FOLDER_PROBES = once("probes") | FOLDER_MEASURED

# Of the folder with sizes and displacements as axes.
ON_AXES: dict[str, Any] = {"noise": (0,), "followed": (), "swept": ("lenet",)}
AXES_COLLECTING = once(*OWN_TABLES, *FIGURES - {"over_training"}, "training_sizes", "table_sensitivity_sweep", "displacements")
SWEPT = once("table_sensitivity_sweep", "displacements")

ROWS = [
    # Where and how jobs run: no result depends on it, or, as on threads, no more than on another machine.
    Row({"device": "cpu"}, NOTHING),
    Row({"jobs_per_gpu": 3}, NOTHING),
    Row({"threads": 2}, NOTHING),
    Row({"checkpoint_minutes": 10}, NOTHING),
    Row({"sensitivity.batch_size": 7}, NOTHING),
    # All of it.
    Row({"results": "results/elsewhere"}, SMOKE_WITHOUT_FIGURE_2 | once("fig02")),
    Row({"seed": 5}, SMOKE_WITHOUT_FIGURE_2),
    # The data set; the tasks of scale detection have their own.
    Row({"data.name": "fashionmnist"}, data_anew("fashionmnist")),
    Row({"data.train_images": 400}, data_anew()),
    Row({"data.test_images": 150}, data_anew()),
    Row({"data.mean": [0.2]}, data_anew()),
    Row({"data.std": [0.2]}, data_anew()),
    Row(
        {"data.noisy_test": False},
        {"probes": {"probes/mnist5k/noise10.h5"}, **trained(*ARCHITECTURES, noise=(10,))},
    ),
    Row({"data.root": "elsewhere"}, NOTHING),  # the same published files
    Row({"data.root": "elsewhere"}, FOLDER_ANEW, "folder"),
    Row({"data.root": "elsewhere"}, GRATINGS_ANEW, "own"),
    Row({"data.function": "code/gratings_again.py:gratings"}, GRATINGS_ANEW, "own"),
    Row({"data.imagefolder.channels": 1}, FOLDER_ANEW, "folder"),
    Row({"data.imagefolder.size": 24}, FOLDER_ANEW, "folder"),
    Row({"data.imagefolder.fit": "stretch"}, FOLDER_ANEW, "folder"),
    Row({"data.imagefolder.resize_to": 40}, FOLDER_ANEW, "folder"),
    Row({"data.imagefolder.problems": "skip"}, FOLDER_ANEW, "folder"),
    Row({"data.imagefolder.channels": 1}, NOTHING),  # of another data set
    # Another size of the training set trains its own networks alone, also one that is larger than all others.
    Row({"data.train_images": [50, 200, 400]}, of_networks("fc2", "lenet", sizes=(400,), **ON_AXES) | AXES_COLLECTING, "axes"),
    Row({"data.train_images": [100, 200, 50]}, of_networks("fc2", "lenet", sizes=(100,), **ON_AXES) | AXES_COLLECTING, "axes"),
    Row({"data.train_images": [200]}, AXES_COLLECTING, "axes"),
    # Another displacement measures alone.
    Row({"probes.sweep": [{"displacement": [1, 2], "cutoff": 3}]},
        of_networks("lenet", sizes=(50, 200), **ON_AXES, rules=["sensitivity_sweep"]) | SWEPT, "axes"),
    Row({"probes.sweep": [{"displacement": 0.5, "cutoff": 4}]},
        of_networks(*ARCHITECTURES, noise=(0,), swept=ARCHITECTURES, rules=["sensitivity_sweep"]) | SWEPT),
    Row({"probes.sweep": [{"displacement": 1.0, "cutoff": 3}]}, NOTHING, "axes"),
    Row({"probes.sweep_architectures": ["fc2", "lenet"]},
        of_networks("fc2", sizes=(50, 200), noise=(0,), swept=("fc2",), rules=["sensitivity_sweep"]) | SWEPT, "axes"),
    # Which networks.
    Row({"architectures": ["fc2", "lenet", "vgg11_bn", "resnet18"]}, trained("resnet18")),
    Row({"architectures": ["fc2", "vgg11_bn"]}, once(*COLLECTING - {"table_over_training", "over_training"})),
    Row({"architectures": ["vgg11_bn", "lenet", "fc2"]}, NOTHING),
    Row({"noise": [0, 10, 0.5]}, {
        "noisy_test": {"datasets/mnist5k/test_noise0.5.h5"}, "probes": {"probes/mnist5k/noise0.5.h5"},
        **trained(*ARCHITECTURES, noise=(0.5,)),
    }),
    Row({"noise": [0]}, once(*COLLECTING)),
    Row({"noise": [10]}, of_networks("lenet", "vgg11_bn", noise=(10,), shuffled=(10,), rules=["shuffled_sensitivity"])
        | once(*COLLECTING)),
    Row({"noise": [10, 0]}, once("fig01")),  # which shows them in this order
    Row({"seeds": 2}, trained(*ARCHITECTURES, seeds=(1,))),
    Row({"recipes.fc2.seeds": 2}, trained("fc2", seeds=(1,))),
    # Architectures of one's own.
    Row({"own_architectures.plain.builder": "code/again.py:build"},
        of_networks("plain", **ON_GRATINGS) | once(*OWN_TABLES, *OWN_FIGURES), "own"),
    Row({"own_architectures.plain.label": "another"}, once(*OWN_FIGURES), "own"),
    Row({"own_architectures.more.builder": "code/again.py:build"}, once(*OWN_FIGURES), "own"),
    Row({"own_architectures.plain.convolutional": False},
        once(*OWN_FIGURES, *OWN_TABLES - {"table_networks"}), "own"),
    Row({"own_architectures.plain.skips": True}, once("fig12", "fig13"), "own"),
    # Measuring.
    Row({"probes.images": 50}, NEW_PROBES),
    Row({"probes.displacement": 0.7}, NEW_PROBES),
    Row({"probes.cutoff": 4}, NEW_PROBES),
    Row({"probes.interpolation": "gaussian"}, NEW_PROBES),
    Row({"probes.images": 30}, FOLDER_PROBES, "folder"),  # torchvision's networks have their own number
    Row({"probes.displacement": 0.7}, together(FOLDER_PROBES, once("imagenet_probes"), IMAGENET_MEASURED), "folder"),
    Row({"sensitivity.weights": "best"}, together(
        of_networks(*ARCHITECTURES, rules=["sensitivity", "shuffled_sensitivity", "spectra"]),
        once(*COLLECTING - {"table_over_training"}), PAIR_REMEASURED, once("table_scale_detection_networks"),
    )),
    Row({"sensitivity.weights": "best"}, together(
        FOLDER_MEASURED, of_networks("lenet", **ON_FOLDER, rules=["spectra"]),
        once("table_networks", "table_spectrum", "fig04"),
    ), "folder"),
    Row({"sensitivity.keep_activations": ["output"]}, together(
        of_networks(*ARCHITECTURES, rules=["sensitivity"]), once(*OF_SENSITIVITY), PAIR_REMEASURED,
    )),
    Row({"channel_shuffle.count": 3}, NEW_SHUFFLES),
    Row({"channel_shuffle.which": "both"}, NEW_SHUFFLES),
    Row({"channel_shuffle.noise": [0, 10]},
        of_networks("lenet", "vgg11_bn", noise=(10,), shuffled=(10,), rules=["shuffled_sensitivity"]) | once(*OF_SENSITIVITY)),
    Row({"channel_shuffle.noise": []}, once(*OF_SENSITIVITY)),
    Row({"channel_shuffle.noise": [0]}, NOTHING),  # as by default
    Row({"channel_shuffle.noise": []}, once(*OF_SENSITIVITY), "folder"),  # torchvision's are shuffled in any case
    Row({"channel_shuffle.count": 3}, together(
        of_networks("lenet", **ON_FOLDER, rules=["shuffled_sensitivity"]), once(*OF_SENSITIVITY),
        on_imagenet("resnet18", "alexnet", rules=["shuffled_sensitivity"]), OF_IMAGENET_SENSITIVITY,
    ), "folder"),
    # Simple CNNs.
    Row({"scale_detection.enabled": False}, once("table_claims")),
    Row({"scale_detection.simple.task2_strided": None},
        once(*OF_ENSEMBLES, "table_scale_detection_samples", "fig05")),
    Row({"scale_detection.simple.fresh": {"size": 32, "scale": 8, "gap": 1, "pairs": 64, "depth": 3}}, ensembles("fresh/relu")),
    Row({f"{ONE_EXPERIMENT}.rule": "block", f"{ONE_EXPERIMENT}.gap": 0}, ITS_TASK),
    Row({f"{ONE_EXPERIMENT}.size": 64}, ITS_TASK),
    Row({f"{ONE_EXPERIMENT}.scale": 9}, ITS_TASK),
    Row({f"{ONE_EXPERIMENT}.gap": 2}, ITS_TASK),
    Row({f"{ONE_EXPERIMENT}.pairs": 66}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.depth": 4}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.filter_size": 3}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.stride": 2}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.channels": 9}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.scaling": "ntk"}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.activations": ["relu", "tanh", "abs"]}, ensembles("task1_stride1/abs")),
    Row({f"{ONE_EXPERIMENT}.activations": ["relu"]}, once(*OF_ENSEMBLES)),
    Row({f"{ONE_EXPERIMENT}.seeds": 6}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.learning_rate": 0.02}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.batch_size": 16}, BOTH_ACTIVATIONS),
    Row({f"{ONE_EXPERIMENT}.epochs": 11}, BOTH_ACTIVATIONS),
    # Those of tanh have no decay.
    Row({f"{ONE_EXPERIMENT}.decay_epochs": 4}, RELU_ONLY),
    Row({f"{ONE_EXPERIMENT}.weight_decay": 0.2}, RELU_ONLY),
    Row({f"{ONE_EXPERIMENT}.decay_activations": ["relu", "tanh"]}, ensembles("task1_stride1/tanh")),
    Row({"scale_detection.probes": 50}, {
        "ensemble_sensitivity": {f"scale_detection/sensitivity/{name}.h5" for name in ENSEMBLES}, **once(*OF_ENSEMBLES),
        **once("pair_probes"), **PAIR_REMEASURED,
    }),
    # Deep networks on images with two lit pixels.
    Row({"scale_detection.images.rule": "block", "scale_detection.images.gap": 0}, OTHER_TASK),
    Row({"scale_detection.images.size": 18}, OTHER_TASK),
    Row({"scale_detection.images.scale": 7}, OTHER_TASK),
    Row({"scale_detection.images.gap": 1}, OTHER_TASK),
    Row({"scale_detection.images.norm": "Linf"}, OTHER_TASK),
    Row({"scale_detection.images.periodic": True}, OTHER_TASK),
    Row({"scale_detection.images.train_pairs": 130}, OTHER_PAIRS),
    Row({"scale_detection.images.test_pairs": 120}, OTHER_PAIRS),
    Row({"scale_detection.images.architectures": ["lenet", "vgg11"]}, {
        "train": {"networks/pairs/vgg11/noise0/seed0.h5"}, "sensitivity": {"sensitivity/pairs/vgg11/noise0/seed0.h5"},
        **once(*OF_PAIRS),
    }),
    Row({"scale_detection.images.architectures": []}, once("table_claims", "table_scale_detection_samples", "fig05")),
    *(
        Row({f"scale_detection.images.{key}": 2}, {
            "train": {"networks/pairs/lenet/noise0/seed1.h5"}, "sensitivity": {"sensitivity/pairs/lenet/noise0/seed1.h5"},
            **once(*OF_PAIRS),
        })
        for key in ("seeds", "recipes.lenet.seeds")
    ),
    # Torchvision's networks.
    Row({"imagenet.networks": ["resnet18", "alexnet", "vgg11"]},
        on_imagenet("vgg11") | OF_IMAGENET_SENSITIVITY | OF_IMAGENET_SPECTRA, "folder"),
    Row({"imagenet.networks": ["resnet18"]}, OF_IMAGENET_SENSITIVITY | OF_IMAGENET_SPECTRA, "folder"),
    Row({"imagenet.networks": [], "imagenet.weights": {}}, NOTHING, "folder"),
    Row({"imagenet.weights.resnet18": "second.pth"},
        on_imagenet("resnet18") | OF_IMAGENET_SENSITIVITY | OF_IMAGENET_SPECTRA, "folder"),
    Row({"imagenet.images": "others"}, IMAGENET_ANEW, "folder"),
    Row({"imagenet.images": None},
        on_imagenet("resnet18", "alexnet", rules=["train", "spectra"]) | OF_IMAGENET_SPECTRA, "folder"),
    Row({"imagenet.probes": 12}, IMAGENET_ANEW, "folder"),
    Row({"imagenet.resize": 80}, IMAGENET_ANEW, "folder"),
    Row({"imagenet.crop": 60}, IMAGENET_ANEW, "folder"),
    *(Row({f"imagenet.{key}": value}, NOTHING)
      for key, value in {"images": "others", "probes": 12, "resize": 300, "crop": 200}.items()),  # of none
    # Statistics and looks.
    Row({"correlation.learned_below": 0.8}, LEARNED_OR_NOT),
    Row({"correlation.confidence": 0.9}, INTERVALS),
    Row({"correlation.resamples": 300}, INTERVALS),
    Row({"figures.dpi": 90}, once(*FIGURES, *SCALE_FIGURES, "fig02")),
    Row({"figures.font_size": 9}, once(*FIGURES, *SCALE_FIGURES, "fig02")),
    Row({"figures.example": 3}, once("fig01")),
    *rows_of_trainings(),
]  # fmt: skip

# Keys that no row is about, and why.
WITHOUT_ROW = {
    "scale_detection.images.training.snapshots": "any other value than 0 is refused",
    "scale_detection.images.recipes.*.snapshots": "any other value than 0 is refused",
}


def changed(raw: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` with other values at dotted keys."""
    new = copy.deepcopy(dict(raw))
    for key, value in change.items():
        *sections, last = key.split(".")
        place = new
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return new


def jobs_of(planners: Planners, folder: Path, config: Path, *arguments: str, source: Path = ROOT) -> dict[str, set[str]]:
    """What a run with this config would do."""
    called = ("all", "--dry-run", "--cores", "2", *arguments, "--configfile", str(config))
    text = planners.snakemake(folder, *called, source=source)
    return jobs_in(text, yaml.safe_load(config.read_text())["results"])


@pytest.fixture(scope="module")
def plans(request, planners, finished, tmp_path_factory):
    """By row, what is planned: all rows whose tests are to run, at work on all cores while the first tests wait for theirs."""
    folder = tmp_path_factory.mktemp("matrix")
    starts = {name: planners.pool.submit(plant, planners, folder / name, STARTS[name]) for name in ("own", "folder", "axes")}

    def plan(row, config):
        return jobs_of(planners, finished if row.start == "smoke" else starts[row.start].result(), config)

    called = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {str(spec.params["row"]) for spec in called if spec is not None and "row" in spec.params}
    futures = {}
    for number, row in enumerate(ROWS):
        if str(row) not in wanted:
            continue
        config = folder / f"{number}.yaml"
        config.write_text(yaml.safe_dump(changed(STARTS[row.start], row.change)))
        futures[str(row)] = planners.pool.submit(plan, row, config)
    return futures


def as_told(jobs: dict[str, set[str]], expected: Jobs) -> Jobs:
    """The jobs in the words of ``expected``, so that a difference can be read."""
    return {rule: len(files) if isinstance(expected.get(rule), int) else files for rule, files in jobs.items()}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_change_makes_anew_what_depends_on_it(plans, row):
    assert as_told(plans[str(row)].result(), row.jobs) == row.jobs


# ---- Every key is there --------------------------------------------------------------------------------------------------------


def model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a key holds, and whether it holds several by name; a dict of plain values is ``(None, True)``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if origin is dict:
        return model_in(arguments[1])[0], True
    if origin in (typing.Union, types.UnionType):
        return next((found for found in map(model_in, arguments) if found != (None, False)), (None, False))
    return None, False


def leaves(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """All keys with a value, names of the user's as *."""
    for name, info in section.model_fields.items():
        inner, several = model_in(info.annotation)
        key = f"{prefix}{name}.*" if several else f"{prefix}{name}"
        if inner is None:
            yield key
        else:
            yield from leaves(inner, f"{key}.")


def pattern_of(key: str, known: set[str]) -> str:
    """The key among ``known`` that a key of a config is, or an empty text."""
    fitting = [pattern for pattern in known if re.fullmatch(re.escape(pattern).replace(r"\*", r"\w+"), key)]
    return fitting[0] if len(fitting) == 1 else ""


def keys_of(raw: Mapping[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and not pattern_of(key, known):
            yield from keys_of(value, known, f"{key}.")
        elif value != {}:
            yield key


def test_every_key_has_a_row_or_a_reason():
    known = set(leaves())
    # The walk through the models finds what config.yaml shows, and more.
    shown = {pattern_of(key, known) for key in keys_of(yaml.safe_load((ROOT / "config.yaml").read_text()), known)}
    assert "" not in shown
    assert len(shown) > 100
    assert {"own_architectures.*.builder", "imagenet.weights.*", "recipes.*.seeds", "scale_detection.simple.*.gap"} <= known
    assert set(HOW_TRAINED) == set(Training.model_fields) - {"snapshots"}
    covered = {pattern_of(row.key, known) for row in ROWS}
    assert known - covered - set(WITHOUT_ROW) == set(), "no row says what a change of these makes anew"
    assert set(WITHOUT_ROW) - known == set()
    assert set(WITHOUT_ROW) & covered == set()
    assert len({str(row) for row in ROWS}) == len(ROWS)


# ---- The short way is the command line -----------------------------------------------------------------------------------------

LIKE_THESE = ({}, {"seeds": 2, "device": "cpu"}, {"data.noisy_test": False})


def test_a_plan_is_that_of_the_command_line(planners, finished, tmp_path):
    for number, change in enumerate(LIKE_THESE):
        config = tmp_path / f"{number}.yaml"
        config.write_text(yaml.safe_dump(changed(STARTS["smoke"], change)))
        mine = jobs_of(planners, finished, config)
        assert mine == planned(finished, config)
        assert bool(mine) == bool(change)


# ---- The cluster and the surroundings ------------------------------------------------------------------------------------------


def profile(folder: Path, **changes: Any) -> Path:
    """The cluster profile with other settings; underscores for hyphens."""
    settings = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    settings |= {key.replace("_", "-"): value for key, value in changes.items()}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


RESOURCES = ["slurm_account=another", "slurm_partition=long", "mem_mb=9000", "runtime=1440"]
ON_THE_COMMAND_LINE = (
    "--jobs", "3", "--retries", "9", "--latency-wait", "5", "--keep-going", "--max-jobs-per-second", "1",
    "--default-resources", *RESOURCES,
    "--set-resources", "train:mem_mb=9000", "train:runtime=2000", "train:slurm_partition=gpu", "train:gpu=2", "spectra:mem_mb=9",
    "--set-threads", "train=2", "prepare_dataset=1",
)  # fmt: skip
IN_THE_PROFILE = {
    "jobs": 2, "retries": 0, "latency_wait": 1, "default_resources": RESOURCES, "set_threads": {"sensitivity": 2},
    "set_resources": {"train": {"mem_mb": 9000, "runtime": 2000, "slurm_partition": "gpu"}},
}  # fmt: skip
GROUPS = ("--groups", "sensitivity=measuring", "spectra=measuring", "--group-components", "measuring=5")


def on_the_cluster(folder: Path) -> dict[str, tuple[str, ...]]:
    """Arguments by what they change. Many at once: what together makes nothing anew makes nothing anew one by one."""
    shipped = ("--profile", str(ROOT / "slurm"))
    return {
        "the shipped profile": shipped,
        "the command line": (*shipped, *ON_THE_COMMAND_LINE),
        "the profile": ("--profile", str(profile(folder / "profile", **IN_THE_PROFILE))),
        "no cluster, with the same arguments": ON_THE_COMMAND_LINE,
    }


def test_where_and_how_jobs_are_queued_makes_nothing_anew(planners, finished, tmp_path):
    ways = on_the_cluster(tmp_path) | {"groups": ("--profile", str(ROOT / "slurm"), *GROUPS), "groups here": GROUPS}
    futures = {name: planners.pool.submit(jobs_of, planners, finished, SMOKE, *arguments) for name, arguments in ways.items()}
    assert {name: future.result() for name, future in futures.items()} == {name: {} for name in ways}


def test_a_run_that_goes_on_in_a_cluster_makes_what_it_would_make_here(planners, finished, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(changed(STARTS["smoke"], {"seeds": 2})))
    expected = trained(*ARCHITECTURES, seeds=(1,))
    ways = on_the_cluster(tmp_path)
    futures = {name: planners.pool.submit(jobs_of, planners, finished, config, *arguments) for name, arguments in ways.items()}
    for name, future in futures.items():
        assert as_told(future.result(), expected) == expected, name


def checkout(folder: Path) -> Path:
    """A copy of what a run reads of this checkout."""
    for name in ("workflow", "profiles", "envs", "src", "configs", "slurm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def test_touched_files_make_nothing_anew(planners, finished, tmp_path):
    """Config, overlays, rules, scripts, the library: all of a checkout that was written after the results."""
    source = checkout(tmp_path / "source")
    later = max(path.stat().st_mtime for path in finished.rglob("*")) + 3600
    for path in source.rglob("*"):
        os.utime(path, (later, later))
    assert jobs_of(planners, finished, source / "configs/smoke.yaml", source=source) == {}


def test_an_edited_script_and_library_make_nothing_anew(planners, finished, tmp_path):
    """As the default profile says: what of the code has changed is for the user to name, with --forcerun."""
    source = checkout(tmp_path / "source")
    for name in ("workflow/scripts/train.py", "src/relstab/training/train.py", "envs/relstab.yaml"):
        path = source / name
        path.write_text(path.read_text() + "\n# Another text.\n")
    assert jobs_of(planners, finished, SMOKE, source=source) == {}


def test_without_logs_and_benchmarks_nothing_is_made_anew(planners, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    for name in ("logs", "benchmarks"):
        shutil.rmtree(folder / STARTS["smoke"]["results"] / name)
    assert jobs_of(planners, folder, SMOKE) == {}
