# The checked configuration and the few functions that turn it into file names.

import fcntl
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The library of this checkout, here and in every job, also in an environment into which nobody installed it.
SOURCE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SOURCE)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [SOURCE, os.getenv("PYTHONPATH")])))

from relstab.architectures import ARCHITECTURES, architecture_source
from relstab.config import IMAGENET, ConfigError, load_config
from relstab.datasets import IMAGE_FOLDER
from relstab.own_code import source_digest
from relstab.scale_detection.design import PAIRS, SimpleDesign


def checked_config():
    """The configuration, or one sentence for each wrong key before anything runs."""
    overlays = [Path(file).name for file in workflow.overwrite_configfiles]
    try:
        return load_config(config, " with ".join(["config.yaml", *overlays]))
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


CONFIG = checked_config()
# Scripts read from here what changes where they run, but not what they make; a key that was left out has its default.
config.update(CONFIG.model_dump())
RESULTS = CONFIG.results
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
DATASET = CONFIG.data.name
# One network in file names: data set, architecture, noise level, seed.
NETWORK = "{dataset}/{architecture}/noise{noise}/seed{seed}"
SCALE = f"{RESULTS}/scale_detection"
# Images chosen for torchvision's networks, where these are measured.
IMAGENET_IMAGES = f"{RESULTS}/datasets/{IMAGENET}.h5"
HAS_IMAGENET_IMAGES = bool(CONFIG.imagenet.networks and CONFIG.imagenet.images)
# Simple CNNs of one experiment and activation, all seeds in one file.
ENSEMBLE = "{experiment}/{activation}"


wildcard_constraints:
    dataset=r"\w+",
    architecture=r"\w+",
    noise=r"[0-9.e+-]+",
    seed=r"\d+",
    experiment=r"\w+",
    activation=r"\w+",


def noise_name(noise):
    """A noise level in file names: 0, 0.01, 30."""
    return f"{noise:.12g}"


def of_all_networks(pattern, noise=None, architectures=None):
    """File names of ``pattern`` for every network of the run, or those at some noise levels or of some architectures."""
    return [
        pattern.format(dataset=DATASET, architecture=architecture, noise=noise_name(level), seed=seed)
        for architecture in (CONFIG.architectures if architectures is None else architectures)
        for level in (CONFIG.noise if noise is None else noise)
        for seed in CONFIG.seeds_of(architecture)
    ]


def of_pair_networks(pattern):
    """File names of ``pattern`` for the deep networks on images with two lit pixels, a data set without noise."""
    return [
        pattern.format(dataset=PAIRS, architecture=architecture, noise=0, seed=seed)
        for architecture in CONFIG.scale_detection.architectures
        for seed in CONFIG.scale_detection.images.seeds_of(architecture)
    ]


def of_imagenet_networks(pattern):
    """File names of ``pattern`` for torchvision's networks, which are one of each kind, without noise."""
    return [pattern.format(dataset=IMAGENET, architecture=name, noise=0, seed=0) for name in CONFIG.imagenet.networks]


def pretrained_from(wildcards):
    """Input of a pretrained network: a local file of its weights, where one is named, and images for its batch norms."""
    weights = CONFIG.imagenet.weights.get(wildcards.architecture)
    return {
        **({"weights": weights} if weights else {}),
        **({"images": IMAGENET_IMAGES} if HAS_IMAGENET_IMAGES else {}),
    }


def of_all_ensembles(pattern):
    """File names of ``pattern`` for every experiment and activation."""
    return [
        pattern.format(experiment=name, activation=activation)
        for name, experiment in CONFIG.scale_detection.experiments.items()
        for activation in experiment.activations
    ]


def sampled_tasks():
    """Tasks whose samples figure 5 shows, by their names there: the first experiment of each rule, and the task on images."""
    tasks = {}
    for experiment in CONFIG.scale_detection.experiments.values():
        tasks.setdefault("Task 1" if experiment.rule == "distance" else "Task 2", experiment.task())
    if CONFIG.scale_detection.architectures:
        tasks["images"] = CONFIG.scale_detection.images.task()
    return tasks


def ensemble_memory(wildcards):
    """Memory of a training of simple CNNs in MB: their weights, as they are and as they are kept, in a checkpoint and in the file."""
    experiment = CONFIG.scale_detection.experiments[wildcards.experiment]
    weights = SimpleDesign(**experiment.design(wildcards.activation)).parameter_count * experiment.seeds
    return 4000 + 12 * 4 * weights // 10**6


# Snakemake compares the values of params without their names, so that two numbers which change places would go unnoticed: rules with
# several numbers have them in one dict, `options`.
def data_options():
    """What a data set depends on. The same published files elsewhere are the same data set; what is the user's is not."""
    data = CONFIG.data
    options = {key: getattr(data, key) for key in ("train_images", "test_images", "mean", "std")}
    if data.name == IMAGE_FOLDER:
        options |= {"root": data.root, "imagefolder": data.imagefolder.model_dump()}
    if data.function:
        options |= {"root": data.root, "function": data.function}
    return {**options, "seed": CONFIG.seed}


def imagenet_memory(wildcards):
    """Memory of a job on torchvision's networks in MB: their weights at 224 pixels in some copies, activations, probes."""
    pixels = 3 * CONFIG.imagenet.crop**2
    return 4000 + 6000 * CONFIG.imagenet.crop**2 // 224**2 + 10 * 4 * pixels * CONFIG.imagenet.probes // 10**6


def measuring_memory(wildcards):
    """Memory of a job that takes a network through its probes, in MB."""
    return imagenet_memory(wildcards) if wildcards.dataset == IMAGENET else 4000


def recipe_of(wildcards):
    """How a network is trained."""
    section = CONFIG.scale_detection.images if wildcards.dataset == PAIRS else CONFIG
    return section.training_of(wildcards.architecture).model_dump()


def convolutional():
    """Architectures of the run that have convolutions to shuffle and analyse."""
    return [name for name in CONFIG.architectures if ARCHITECTURES[name].convolutional]


def beyond_figure_4(skips):
    """Architectures with or without skip connections for a figure of their own, where figure 4 has no room for all, which is six."""
    names = convolutional()
    return [name for name in names if ARCHITECTURES[name].skips == skips] if len(names) > 6 else []


def followed():
    """Architectures of the run whose weights are kept on the way, to measure them over training."""
    return [name for name in CONFIG.architectures if CONFIG.training_of(name).snapshots]


def images_to_test(wildcards):
    """Test images of the noise level, or clean ones where the config says that tests are clean."""
    noise = wildcards.noise if CONFIG.data.noisy_test else "0"
    return f"{RESULTS}/datasets/{wildcards.dataset}/test_noise{noise}.h5"


def gpus(wildcards):
    """GPUs that a job which runs a network asks for."""
    return 0 if CONFIG.device == "cpu" else 1


onstart:
    # Snakemake's own lock outlives a run that was killed (it is off in the default profile); this one ends with the process that holds
    # it, so that an interrupted run can be started again as it is, and two runs still cannot write to one folder.
    Path(RESULTS).mkdir(parents=True, exist_ok=True)
    # Kept where it outlives this block: the lock goes with the last reference to the file.
    workflow.run_lock = open(f"{RESULTS}/.lock", "w")
    try:
        fcntl.flock(workflow.run_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkflowError(
            f"another run is writing to {RESULTS}: wait for it to end, or give this one another folder (config.yaml: results)"
        )
