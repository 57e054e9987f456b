"""What a change of the config runs again: by key, the jobs that read it, and all downstream of them in Snakemake's graph of jobs.

Most rows start from the finished smoke run. What it does not have (a user's data set and architectures, a folder of images,
torchvision's networks) starts from two folders whose files are empty and marked as made, which is all that planning looks at.
"""

import importlib.util
import os
import re
import shutil
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from relstab.config import Config, Training
from relstab.config.section import Section, section_in

from helpers import RESULTS, ROOT, SMOKE, changed, copy_checkout, run
from planning import Job, Planners, to_run

# ---- Where the rows start from -------------------------------------------------------------------------------------------------

# The user's data set, and enough convolutional networks, two of them the user's, for figures 12 and 13.
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
    for job in planners.plan(folder, config):
        for output in job.outputs:
            path = folder / raw["results"] / output
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    planners.snakemake(folder, "all", "--cores", "8", "--touch", "--forceall", config=config)
    return folder


# ---- The matrix ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A change of the config, and the jobs that read what changed: those downstream of them follow from the graph.

    The first key of the change is the one that the row is about; others are what it needs beside it.
    """

    change: dict[str, Any]
    readers: str
    start: str = "smoke"

    @property
    def key(self) -> str:
        return next(iter(self.change))

    def __str__(self) -> str:
        value = self.change[self.key]
        text = "{...}" if isinstance(value, dict) and value else str(value)
        return f"{self.start}: {self.key}={text}"


NOTHING = ""
EVERYTHING = "*"
ALL_DATA = "prepare_dataset, pair_dataset, train_ensemble, homogeneous_sensitivity, table_scale_detection_samples"
PROBES = "probes mnist5k"
TABLES = "table_networks, table_history, table_sensitivity, table_spectrum, table_correlation, table_claims"
# Every figure of networks that shows architectures in their colours.
OF_ARCHITECTURES = "fig01, fig03, fig04, fig10, fig11, fig12, fig13, initialization, learning_curves"
PAIR_TRAINING = "train pairs"
INTERVALS = (
    "table_correlation, table_claims, fig01, fig10, table_scale_detection, fig07, relu_tanh, "
    "table_scale_detection_correlation, fig06"
)

# Training settings: another value, and the networks of the smoke run that it reaches when it is under training. The others have
# settings of their own: fc2 its optimizer, learning rate, decay and schedule, lenet its learning rate; recipes set epochs, widths
# and snapshots of some.
HOW_TRAINED: dict[str, tuple[Any, str]] = {
    "epochs": (4, ""),
    "steps_per_epoch": (7, "fc2 lenet vgg11_bn"),
    "batch_size": (32, "lenet vgg11_bn"),
    "loss": ("hinge", "fc2 lenet vgg11_bn"),
    "optimizer": ("adam", "lenet vgg11_bn"),
    "learning_rate": (0.03, "vgg11_bn"),
    "momentum": (0.8, "lenet vgg11_bn"),
    "weight_decay": (0.001, "lenet vgg11_bn"),
    "schedule": ("constant", "lenet vgg11_bn"),
    "schedule_fraction": (0.7, "lenet vgg11_bn"),
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


def rows_of_training() -> Iterator[Row]:
    """The keys of training and recipes, of both kinds of deep networks: each kind is its own."""
    for key, (value, names) in HOW_TRAINED.items():
        yield Row({f"training.{key}": value}, ", ".join(f"train mnist5k {name}" for name in names.split()))
        # lenet's own settings win over what its recipe gets from elsewhere, and reach no other network.
        without_effect = key == "diffeo_cutoff"
        value = {"epochs": 7, "loss": "hinge"}.get(key, value)
        yield Row({f"recipes.lenet.{key}": value}, NOTHING if without_effect else "train mnist5k lenet")
        value = {"batch_size": 16, "loss": "cross_entropy"}.get(key, value)
        own = key in ("epochs", "learning_rate")
        yield Row({f"scale_detection.images.training.{key}": value}, NOTHING if own or without_effect else PAIR_TRAINING)
        yield Row({f"scale_detection.images.recipes.lenet.{key}": value}, NOTHING if without_effect else PAIR_TRAINING)
    # What a recipe says reaches networks that have their own.
    yield Row({"recipes.fc2.weight_decay": 0.1}, "train fc2")
    yield Row({"training.snapshots": 2}, "train fc2, train vgg11_bn")
    yield Row({"recipes.lenet.snapshots": 5}, "train mnist5k lenet")


MEASURING_FOLDER = "sensitivity imagefolder, shuffled_sensitivity imagefolder, spectra imagefolder, table_networks"
ONE_EXPERIMENT = "scale_detection.simple.task1_stride1"
ITS_TASK = "train_ensemble task1_stride1, table_scale_detection_samples"
WEIGHTS = "sensitivity, shuffled_sensitivity, spectra, table_networks, table_scale_detection_networks"

ROWS = [
    # Where and how jobs run: no result depends on it, or, as on threads, no more than on another machine.
    Row({"device": "cpu"}, NOTHING),
    Row({"jobs_per_gpu": 3}, NOTHING),
    Row({"networks_per_job": 8}, NOTHING),
    Row({"threads": 2}, NOTHING),
    Row({"checkpoint_minutes": 10}, NOTHING),
    Row({"training_log": "tensorboard"}, NOTHING),
    Row({"sensitivity.batch_size": 7}, NOTHING),
    # Everything.
    Row({"results": "results/elsewhere"}, EVERYTHING),
    Row({"seed": 5}, ALL_DATA),
    # The data set; the tasks of scale detection have their own.
    Row({"data.name": "fashionmnist"}, "prepare_dataset"),
    Row({"data.train_images": 400}, "prepare_dataset"),
    Row({"data.test_images": 150}, "prepare_dataset"),
    Row({"data.mean": [0.2]}, "prepare_dataset"),
    Row({"data.std": [0.2]}, "prepare_dataset"),
    Row({"data.noisy_test": False}, "probes mnist5k noise10, train mnist5k noise10"),
    Row({"data.root": "elsewhere"}, NOTHING),  # the same published files
    Row({"data.root": "elsewhere"}, "prepare_dataset", "folder"),
    Row({"data.root": "elsewhere"}, "prepare_dataset", "own"),
    Row({"data.function": "code/gratings_again.py:gratings"}, "prepare_dataset", "own"),
    Row({"data.label": "digits"},
        "fig01, fig03, fig04, fig10, fig11, initialization, deformations, learning_curves, over_training"),
    Row({"data.imagefolder.channels": 1}, "prepare_dataset", "folder"),
    Row({"data.imagefolder.size": 24}, "prepare_dataset", "folder"),
    Row({"data.imagefolder.fit": "stretch"}, "prepare_dataset", "folder"),
    Row({"data.imagefolder.resize_to": 40}, "prepare_dataset", "folder"),
    Row({"data.imagefolder.problems": "skip"}, "prepare_dataset", "folder"),
    Row({"data.imagefolder.channels": 1}, NOTHING),  # of another data set
    # Another size of the training set trains its own networks alone, also one that is larger than all others.
    Row({"data.train_images": [50, 200, 400]}, "train noise0_images400", "axes"),
    Row({"data.train_images": [100, 200, 50]}, "train noise0_images100", "axes"),
    # Filters and shuffles are those of the largest size in any case.
    Row({"data.train_images": [200]},
        "table_networks, table_history, table_sensitivity, table_correlation, table_claims, table_sensitivity_sweep", "axes"),
    Row({"data.train_images": None}, NOTHING, "folder"),  # auto is all images of every data set but mnist5k
    # Another displacement measures alone.
    Row({"probes.sweep": [{"displacement": [1, 2], "cutoff": 3}]}, "sensitivity_sweep", "axes"),
    Row({"probes.sweep": [{"displacement": 0.5, "cutoff": 4}]}, "sensitivity_sweep"),
    Row({"probes.sweep": [{"displacement": 1.0, "cutoff": 3}]}, NOTHING, "axes"),
    Row({"probes.sweep_architectures": ["fc2", "lenet"]}, "sensitivity_sweep fc2", "axes"),
    # Which networks.
    Row({"architectures": ["fc2", "lenet", "vgg11_bn", "resnet18"]}, "train resnet18"),
    Row({"architectures": ["fc2", "vgg11_bn"]}, TABLES),
    Row({"architectures": ["vgg11_bn", "lenet", "fc2"]}, NOTHING),
    Row({"noise": [0, 10, 0.5]}, "noisy_test test_noise0.5, probes noise0.5, train noise0.5"),
    Row({"noise": [0]}, f"{TABLES}, table_over_training, fig01"),
    Row({"noise": [10]}, f"shuffled_sensitivity mnist5k noise10, {TABLES}, table_over_training, deformations"),
    Row({"noise": [10, 0]}, "fig01"),  # which shows them in this order
    Row({"seeds": 2}, "train mnist5k seed1"),
    Row({"recipes.fc2.seeds": 2}, "train fc2 seed1"),
    # The user's architectures.
    Row({"own_architectures.plain.builder": "code/again.py:build"},
        "train plain", "own"),
    Row({"own_architectures.plain.label": "another"}, OF_ARCHITECTURES, "own"),
    Row({"own_architectures.more.builder": "code/again.py:build"}, OF_ARCHITECTURES, "own"),
    Row({"own_architectures.plain.convolutional": False},
        "table_sensitivity, table_spectrum, table_correlation, table_claims", "own"),
    Row({"own_architectures.plain.skips": True}, "fig12, fig13", "own"),
    # Measuring.
    Row({"probes.images": 50}, PROBES),
    Row({"probes.displacement": 0.7}, PROBES),
    Row({"probes.cutoff": 4}, PROBES),
    Row({"probes.interpolation": "gaussian"}, PROBES),
    Row({"probes.images": 30}, "probes imagefolder", "folder"),  # torchvision's networks have their own number
    Row({"probes.displacement": 0.7}, "probes imagefolder, imagenet_probes", "folder"),
    Row({"sensitivity.weights": "best"}, WEIGHTS),
    Row({"sensitivity.weights": "best"}, MEASURING_FOLDER, "folder"),
    Row({"sensitivity.keep_activations": ["output"]}, "sensitivity"),
    Row({"channel_shuffle.count": 3}, "shuffled_sensitivity"),
    Row({"channel_shuffle.which": "both"}, "shuffled_sensitivity"),
    Row({"channel_shuffle.noise": [0, 10]},
        "shuffled_sensitivity noise10"),
    Row({"channel_shuffle.noise": []}, "table_sensitivity"),
    Row({"channel_shuffle.noise": [0]}, NOTHING),  # as by default
    Row({"channel_shuffle.noise": []}, "table_sensitivity", "folder"),  # torchvision's are shuffled in any case
    Row({"channel_shuffle.count": 3}, "shuffled_sensitivity", "folder"),
    # Simple CNNs.
    Row({"scale_detection.enabled": False}, "table_claims"),
    Row({"scale_detection.simple.task2_strided": None},
        "table_scale_detection_layers, table_scale_detection_samples"),
    Row({"scale_detection.simple.fresh": {"size": 32, "scale": 8, "gap": 1, "pairs": 64, "depth": 3}}, "train_ensemble fresh"),
    Row({f"{ONE_EXPERIMENT}.rule": "block", f"{ONE_EXPERIMENT}.gap": 0}, ITS_TASK),
    Row({f"{ONE_EXPERIMENT}.size": 64}, ITS_TASK),
    Row({f"{ONE_EXPERIMENT}.scale": 9}, ITS_TASK),
    Row({f"{ONE_EXPERIMENT}.gap": 2}, ITS_TASK),
    Row({f"{ONE_EXPERIMENT}.pairs": 66}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.depth": 4}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.filter_size": 3}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.stride": 2}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.channels": 9}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.scaling": "ntk"}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.activations": ["relu", "tanh", "abs"]}, "train_ensemble task1_stride1 abs"),
    Row({f"{ONE_EXPERIMENT}.activations": ["relu"]}, "table_scale_detection_layers"),
    Row({f"{ONE_EXPERIMENT}.seeds": 6}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.learning_rate": 0.02}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.batch_size": 16}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.epochs": 11}, "train_ensemble task1_stride1"),
    # Those of tanh have no decay.
    Row({f"{ONE_EXPERIMENT}.decay_epochs": 4}, "train_ensemble task1_stride1 relu"),
    Row({f"{ONE_EXPERIMENT}.weight_decay": 0.2}, "train_ensemble task1_stride1 relu"),
    Row({f"{ONE_EXPERIMENT}.ridge": 0.1, f"{ONE_EXPERIMENT}.decay_epochs": 0}, "train_ensemble task1_stride1"),
    Row({f"{ONE_EXPERIMENT}.interpolation_factor": 20}, NOTHING),  # without a ridge
    Row({f"{ONE_EXPERIMENT}.decay_activations": ["relu", "tanh"]}, "train_ensemble task1_stride1 tanh"),
    Row({"scale_detection.probes": 50}, "ensemble_sensitivity, pair_probes"),
    # Deep networks on images with two lit pixels.
    Row({"scale_detection.images.rule": "block", "scale_detection.images.gap": 0}, "pair_dataset, table_scale_detection_samples"),
    Row({"scale_detection.images.size": 18}, "pair_dataset, table_scale_detection_samples"),
    Row({"scale_detection.images.scale": 7}, "pair_dataset, table_scale_detection_samples"),
    Row({"scale_detection.images.gap": 1}, "pair_dataset, table_scale_detection_samples"),
    Row({"scale_detection.images.norm": "Linf"}, "pair_dataset, table_scale_detection_samples"),
    Row({"scale_detection.images.periodic": True}, "pair_dataset, table_scale_detection_samples"),
    Row({"scale_detection.images.train_pairs": 130}, "pair_dataset"),
    Row({"scale_detection.images.test_pairs": 120}, "pair_dataset"),
    Row({"scale_detection.images.architectures": ["lenet", "vgg11"]}, "train pairs vgg11"),
    Row({"scale_detection.images.architectures": []}, "table_claims, table_scale_detection_samples"),
    Row({"scale_detection.images.seeds": 2}, "train pairs seed1"),
    Row({"scale_detection.images.recipes.lenet.seeds": 2}, "train pairs seed1"),
    # Torchvision's networks.
    Row({"imagenet.networks": ["resnet18", "alexnet", "vgg11"]},
        "imagenet_network vgg11", "folder"),
    *([Row({"imagenet.networks": ["resnet18", "alexnet", "timm:resnet18.a1_in1k"]},
        "imagenet_network timm-resnet18.a1_in1k", "folder")] if importlib.util.find_spec("timm") else []),
    Row({"imagenet.networks": ["resnet18"]}, "table_imagenet_sensitivity, table_imagenet_spectrum", "folder"),
    Row({"imagenet.networks": [], "imagenet.weights": {}}, NOTHING, "folder"),
    Row({"imagenet.weights.resnet18": "second.pth"},
        "imagenet_network resnet18", "folder"),
    Row({"imagenet.images": "others"}, "imagenet_images", "folder"),
    Row({"imagenet.images": None},
        "imagenet_network", "folder"),
    Row({"imagenet.probes": 12}, "imagenet_images", "folder"),
    Row({"imagenet.resize": 80}, "imagenet_images", "folder"),
    Row({"imagenet.crop": 60}, "imagenet_images", "folder"),
    *(Row({f"imagenet.{key}": value}, NOTHING)
      for key, value in {"images": "others", "probes": 12, "resize": 300, "crop": 200}.items()),  # of none
    # Statistics and looks.
    Row({"correlation.learned_below": 0.8}, "table_networks, table_scale_detection_networks"),
    Row({"correlation.confidence": 0.9}, INTERVALS),
    Row({"correlation.resamples": 300}, INTERVALS),
    Row({"figures.dpi": 90}, "figure"),
    Row({"figures.font_size": 9}, "figure"),
    Row({"figures.example": 3}, "fig01, deformations"),
    *rows_of_training(),
]  # fmt: skip

# Keys that no row is about, and why.
WITHOUT_ROW = {
    "scale_detection.images.training.snapshots": "any other value than 0 is refused",
    "scale_detection.images.recipes.*.snapshots": "any other value than 0 is refused",
}


def downstream(jobs: list[Job], readers: str) -> dict[str, set[str]]:
    """The files of the jobs that ``readers`` names, and all that read what these make, directly or not."""
    reached = {index for index, job in enumerate(jobs) if job.file and job.is_one_of(readers)}
    missing = [term for term in readers.split(",") if term.strip() and not any(job.is_one_of(term) for job in jobs)]
    assert not missing, f"expected the plan to have jobs of {missing}"
    size = -1
    while len(reached) > size:
        size = len(reached)
        reached |= {index for index, job in enumerate(jobs) if job.file and reached.intersection(job.after)}
    return to_run([replace(job, runs=index in reached) for index, job in enumerate(jobs)])


@pytest.fixture(scope="module")
def plans(request, planners, finished, tmp_path_factory):
    """By row, what is planned: all rows whose tests are to run, at work on all cores while the first tests wait for theirs."""
    folder = tmp_path_factory.mktemp("matrix")
    starts = {name: planners.pool.submit(plant, planners, folder / name, STARTS[name]) for name in ("own", "folder", "axes")}

    def plan(row, config):
        return planners.plan(finished if row.start == "smoke" else starts[row.start].result(), config)

    called = [getattr(item, "callspec", None) for item in request.session.items]
    selected = {str(spec.params["row"]) for spec in called if spec is not None and "row" in spec.params}
    futures = {}
    for number, row in enumerate(ROWS):
        if str(row) not in selected:
            continue
        config = folder / f"{number}.yaml"
        config.write_text(yaml.safe_dump(changed(STARTS[row.start], row.change)))
        futures[str(row)] = planners.pool.submit(plan, row, config)
    return futures


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_change_runs_again_what_depends_on_it(plans, row):
    jobs = plans[str(row)].result()
    assert to_run(jobs) == downstream(jobs, row.readers)


# ---- Every key has a row -------------------------------------------------------------------------------------------------------


def leaves(section: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    """All keys with a value, names of the user's as *."""
    for name, info in section.model_fields.items():
        kind = typing.get_origin(info.annotation)
        inner = None if kind is list else section_in(info.annotation)
        key = f"{prefix}{name}.*" if kind is dict else f"{prefix}{name}"
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
    assert known - covered - set(WITHOUT_ROW) == set(), "no row says what a change of these runs again"
    assert set(WITHOUT_ROW) - known == set()
    assert set(WITHOUT_ROW) & covered == set()
    assert len({str(row) for row in ROWS}) == len(ROWS)


# ---- The short way is the command line -----------------------------------------------------------------------------------------


def jobs_in(text: str) -> dict[str, set[str]]:
    """What a dry run lists: the first output of each job, by its rule (of a figure: by its name)."""
    if "Nothing to be done" in text:
        return {}
    jobs: dict[str, set[str]] = {}
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", text, flags=re.MULTILINE):
        if rule == "all":
            continue
        output = re.search(r"^    output: ([^,\n]+)", block, flags=re.MULTILINE)
        name = re.sub(r"(fig\d\d)_.*", r"\1", Path(output[1]).stem) if rule == "figure" else rule
        jobs.setdefault(name, set()).add(str(Path(output[1]).relative_to(RESULTS)))
    assert jobs, text
    return jobs


@pytest.mark.parametrize("change", [{}, {"seeds": 2, "device": "cpu"}, {"data.noisy_test": False}], ids=str)
def test_a_plan_is_that_of_the_command_line(planners, finished, tmp_path, change):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(changed(STARTS["smoke"], change)))
    done = run(finished, "all", "--dry-run", "--cores", "2", config=config)
    planned = planners.planned(finished, config)
    assert planned == jobs_in(done.stdout + done.stderr)
    assert bool(planned) == bool(change)


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
    """Arguments by what they change. Many at once: what together runs nothing again runs nothing again one by one."""
    shipped = ("--profile", str(ROOT / "slurm"))
    return {
        "the shipped profile": shipped,
        "the command line": (*shipped, *ON_THE_COMMAND_LINE),
        "the profile": ("--profile", str(profile(folder / "profile", **IN_THE_PROFILE))),
        "no cluster, with the same arguments": ON_THE_COMMAND_LINE,
    }


def test_where_and_how_jobs_are_queued_runs_nothing_again(planners, finished, tmp_path):
    ways = on_the_cluster(tmp_path) | {"groups": ("--profile", str(ROOT / "slurm"), *GROUPS), "groups here": GROUPS}
    futures = {name: planners.pool.submit(planners.plan, finished, SMOKE, *arguments) for name, arguments in ways.items()}
    assert {name: to_run(future.result()) for name, future in futures.items()} == {name: {} for name in ways}


def test_a_run_that_continues_on_a_cluster_plans_what_it_would_plan_here(planners, finished, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(changed(STARTS["smoke"], {"seeds": 2})))
    ways = on_the_cluster(tmp_path)
    futures = {name: planners.pool.submit(planners.plan, finished, config, *arguments) for name, arguments in ways.items()}
    for name, future in futures.items():
        jobs = future.result()
        assert to_run(jobs) == downstream(jobs, "train mnist5k seed1"), name


def test_touched_files_run_nothing_again(planners, finished, tmp_path):
    """Config, overlays, rules, scripts, the library: all of a checkout that was written after the results."""
    source = copy_checkout(tmp_path / "source")
    later = max(path.stat().st_mtime for path in finished.rglob("*")) + 3600
    for path in source.rglob("*"):
        os.utime(path, (later, later))
    assert to_run(planners.plan(finished, source / "configs/smoke.yaml", source=source)) == {}


def test_an_edited_script_and_library_run_nothing_again(planners, finished, tmp_path):
    """As the default profile says: what of the code has changed is for the user to name, with --forcerun."""
    source = copy_checkout(tmp_path / "source")
    for name in ("workflow/scripts/train.py", "src/relstab/training/train.py", "envs/relstab.yaml"):
        path = source / name
        path.write_text(path.read_text() + "\n# Another text.\n")
    assert to_run(planners.plan(finished, SMOKE, source=source)) == {}


def test_without_logs_and_benchmarks_nothing_runs_again(planners, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    for name in ("logs", "benchmarks"):
        shutil.rmtree(folder / STARTS["smoke"]["results"] / name)
    assert planners.planned(folder) == {}
