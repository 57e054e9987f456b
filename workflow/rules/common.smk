# The checked configuration, and the few functions that turn it into file names and resources.

import os
from pathlib import Path

from snakemake.exceptions import WorkflowError

from relstab.architectures import ARCHITECTURES, architecture_source, own_architectures
from relstab.architectures.user_code import source_digest
from relstab.config import IMAGENET, RECIPE_VERSION, ConfigError, Training, check_text, load_config
from relstab.data.datasets import IMAGE_FOLDER
from relstab.files.hdf5 import file_digest
from relstab.files.network import in_file_names
from relstab.figures import FIGURES
from relstab.figures.note import figure_note
from relstab.scale_detection.design import PAIRS, SimpleDesign


def checked_config():
    """The configuration, or one sentence for each wrong key before anything runs."""
    try:
        for file in (f"{workflow.basedir}/config.yaml", *workflow.overwrite_configfiles):
            check_text(file)
        return load_config(config, " with ".join(["config.yaml", *OVERLAYS]))
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


CONFIG = checked_config()
# Scripts read from here the keys that change where they run, but not the results. A key that the user left out has its default.
config.update(CONFIG.model_dump())
own_architectures(config["own_architectures"])
RESULTS = CONFIG.results
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
DATASET = CONFIG.data.name
# One network in file names: data set, architecture, noise level, seed; and the size of its training set where that is an axis.
NETWORK = "{dataset}/{architecture}/noise{noise}{subset}/seed{seed}"
SCALE = f"{RESULTS}/scale_detection"
# Architectures of which one job may train several networks at the same time: their kernels leave most of a GPU idle.
SHARES_GPU = CONFIG.networks_per_job > 1 and CONFIG.device != "cpu"
TOGETHER = [name for name, each in ARCHITECTURES.items() if each.launch_bound and SHARES_GPU]
# Pretrained networks by their names in file names.
PRETRAINED = {in_file_names(name): name for name in CONFIG.imagenet.networks}
# Images on which they are measured.
IMAGENET_IMAGES = f"{RESULTS}/datasets/{IMAGENET}.h5"
HAS_IMAGENET_IMAGES = bool(CONFIG.imagenet.networks and CONFIG.imagenet.images)
# Simple CNNs of one experiment and activation, all seeds in one file.
ENSEMBLE = "{experiment}/{activation}"


wildcard_constraints:
    dataset=r"\w+",
    architecture=r"\w+|timm-\w+(\.\w+)?",
    noise=r"[0-9.e+-]+",
    subset=r"(_images\d+)?",
    seed=r"\d+",
    experiment=r"\w+",
    activation=r"\w+",


def noise_name(noise):
    """A noise level in file names: 0, 0.01, 30."""
    return f"{noise:.12g}"


def subset_name(size):
    """The size of the training set in file names, where it is an axis."""
    return "" if size is None else f"_images{size}"


def of_all_networks(pattern, noise=None, architectures=None, sizes=None):
    """File names of ``pattern`` for every network of the run, or for some noise levels, architectures or sizes of the training set."""
    return [
        pattern.format(dataset=DATASET, architecture=architecture, noise=noise_name(level), subset=subset_name(size), seed=seed)
        for architecture in (CONFIG.architectures if architectures is None else architectures)
        for size in (CONFIG.data.training_sizes if sizes is None else sizes)
        for level in (CONFIG.noise if noise is None else noise)
        for seed in CONFIG.seeds_of(architecture)
    ]


def of_pair_networks(pattern):
    """File names of ``pattern`` for the deep networks on images with two lit pixels, a data set without noise."""
    return [
        pattern.format(dataset=PAIRS, architecture=architecture, noise=0, subset="", seed=seed)
        for architecture in CONFIG.scale_detection.architectures
        for seed in CONFIG.scale_detection.images.seeds_of(architecture)
    ]


def of_imagenet_networks(pattern):
    """File names of ``pattern`` for the pretrained networks: one per architecture, without noise."""
    return [pattern.format(dataset=IMAGENET, architecture=name, noise=0, subset="", seed=0) for name in PRETRAINED]


def local_weights(wildcards):
    """Local file of the weights of a pretrained network, if the config names one."""
    return CONFIG.imagenet.weights.get(PRETRAINED.get(wildcards.architecture))


def pretrained_from(wildcards):
    """Input of a pretrained network: a local file of its weights if the config names one, and images for its batch norms."""
    weights = local_weights(wildcards)
    return {
        **({"weights": weights} if weights else {}),
        **({"images": IMAGENET_IMAGES} if HAS_IMAGENET_IMAGES else {}),
    }


def digest_of_weights(wildcards):
    """Digest of the local file of a pretrained network; empty where there is none."""
    weights = local_weights(wildcards)
    return file_digest(weights) if weights and os.path.isfile(weights) else ""


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


def growing(base, per_mb=0):
    """A resource that grows with the attempts of a job: the second attempt gets twice as much, the third three times.

    ``base`` is a number or a function of the wildcards. ``per_mb`` is added for each MB of input files that exist.
    """
    if not SUBMITS_JOBS and not callable(base) and not per_mb:
        return base  # nothing enforces it on one machine, and calling functions takes a tenth of the planning time

    def amount(wildcards, input, attempt):
        files = [file for file in input if os.path.exists(file)] if per_mb else []
        of_input = per_mb * sum(map(os.path.getsize, files)) // 10**6
        return attempt * ((base(wildcards) if callable(base) else base) + of_input)

    return amount


def figure_inputs(wildcards):
    """Tables of a figure, and images where it shows some."""
    entry = FIGURES[wildcards.figure]
    inputs = {argument: f"{TABLES}/{table}.csv" for argument, table in entry.tables.items()}
    if {"images", "probe"} & set(entry.needs):
        inputs["probes"] = f"{RESULTS}/probes/{DATASET}/noise{noise_name(min(CONFIG.noise))}.h5"
    if "images" in entry.needs:
        inputs["noisy"] = [f"{RESULTS}/datasets/{DATASET}/test_noise{noise_name(noise)}.h5" for noise in CONFIG.noise]
    return inputs


def figure_options(wildcards):
    """Options of a figure beside its inputs. They include its caption, labels and architectures, so that a change draws it again."""
    entry = FIGURES[wildcards.figure]
    draw = dict(entry.arguments)
    if "interval" in entry.needs:
        draw |= INTERVAL
    if "deformation" in entry.needs:
        draw |= {key: getattr(CONFIG.probes, key) for key in ("displacement", "cutoff", "interpolation")}
    if "confidence" in entry.needs:
        draw["confidence"] = CONFIG.correlation.confidence
    return {
        "dpi": CONFIG.figures.dpi,
        "font_size": CONFIG.figures.font_size,
        "caption": entry.caption,
        "note": figure_note(entry, CONFIG),
        "draw": draw,
        **({"noise": CONFIG.noise} if "images" in entry.needs else {}),
        **({"example": CONFIG.figures.example} if {"images", "probe"} & set(entry.needs) else {}),
        **({"labels": user_labels()} if entry.shows_architectures else {}),
        **({"architectures": beyond_figure_4(entry.arguments["skips"])} if "skips" in entry.arguments else {}),
    }


def experiment_of(wildcards):
    """Section of the config of an experiment with simple CNNs."""
    return CONFIG.scale_detection.experiments[wildcards.experiment]


def ensemble_memory(wildcards):
    """Memory (MB) of training simple CNNs: weights in memory, in the saved states, in a checkpoint and in the file."""
    experiment = experiment_of(wildcards)
    weights = SimpleDesign(**experiment.design(wildcards.activation)).parameter_count * experiment.seeds
    return 4000 + 12 * 4 * weights // 10**6


def ordered(value):
    """The same value with the keys of all its dicts sorted, so that another order in a config or a model is not a change."""
    return {key: ordered(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


def options(**values):
    """All params of a rule as one dict, from values or functions of the wildcards.

    Snakemake compares the values of params without their names, and would not notice that two numbers changed places.
    """
    if not any(map(callable, values.values())):
        return {"options": ordered(values)}

    def of_wildcards(wildcards):
        return ordered({name: value(wildcards) if callable(value) else value for name, value in values.items()})

    return {"options": of_wildcards}


# Options of bootstrap intervals.
INTERVAL = {"confidence": CONFIG.correlation.confidence, "resamples": CONFIG.correlation.resamples, "seed": CONFIG.seed}


def data_options():
    """Options of a data set. Published files are the same data set in any folder; files of the user are not."""
    data = CONFIG.data
    options = {key: getattr(data, key) for key in ("test_images", "mean", "std")}
    if data.training_sizes == [None]:
        options["train_images"] = data.kept_training_images
    else:
        # One data set for all sizes: another size trains its own networks alone.
        options |= {"train_images": None, "nested": True}
    if data.name == IMAGE_FOLDER:
        options |= {"root": data.root, "imagefolder": data.imagefolder.model_dump()}
    if data.function:
        options |= {"root": data.root, "function": data.function}
    return {**options, "seed": CONFIG.seed}


def imagenet_memory(wildcards):
    """Memory (MB) of a job on pretrained networks: some copies of the weights, activations at 224 pixels, probes."""
    pixels = 3 * CONFIG.imagenet.crop**2
    return 4000 + 6000 * CONFIG.imagenet.crop**2 // 224**2 + 10 * 4 * pixels * CONFIG.imagenet.probes // 10**6


def measuring_memory(wildcards):
    """Memory (MB) of a job that measures a network on its probes."""
    return imagenet_memory(wildcards) if wildcards.dataset == IMAGENET else 4000


def recipe_of(wildcards):
    """How a network is trained."""
    section = CONFIG.scale_detection.images if wildcards.dataset == PAIRS else CONFIG
    recipe = section.training_of(wildcards.architecture).model_dump()
    entry = ARCHITECTURES[wildcards.architecture]
    # A setting without effect has its default here, so that another value of it does not repeat the training.
    unused = {
        "momentum": recipe["optimizer"] == "adam",
        "schedule_fraction": recipe["schedule"] == "constant" and not recipe["warmup_epochs"],
        "diffeo_cutoff": recipe["diffeo_displacement"] == 0,
        "pooling": not entry.builder and recipe["pooling"] == entry.pooling,
        "activation": not entry.builder and recipe["activation"] == entry.activation,
    }
    return recipe | {key: Training.model_fields[key].default for key, is_unused in unused.items() if is_unused}


def trained_weights(wildcards):
    """Which state of the weights counts as trained; pretrained networks have one state."""
    return "last" if wildcards.dataset == IMAGENET else CONFIG.sensitivity.weights


def user_labels():
    """Labels of user architectures in figures; their order and number determine the colours and marks of all architectures."""
    return [(name, own.label or name) for name, own in CONFIG.own_architectures.items()]


def convolutional():
    """Architectures of the run that have convolutions to shuffle and analyse."""
    return [name for name in CONFIG.architectures if ARCHITECTURES[name].convolutional]


def beyond_figure_4(skips):
    """Architectures with or without skip connections for a separate figure, if there are more than the six that figure 4 has room for."""
    names = convolutional()
    return [name for name in names if ARCHITECTURES[name].skips == skips] if len(names) > 6 else []


def largest_size():
    """The largest size of the training set, for claims and figures about layers and filters; [None] if the size is no axis."""
    sizes = CONFIG.data.training_sizes
    return sizes if sizes == [None] else [max(sizes)]


def followed():
    """Architectures of the run whose weights are saved during training, to measure them over training."""
    return [name for name in CONFIG.architectures if CONFIG.training_of(name).snapshots]


def swept():
    """Architectures of the run that are measured for further displacements and cutoffs."""
    probes = CONFIG.probes
    if not probes.sweep:
        return []
    return CONFIG.architectures if probes.sweep_architectures is None else probes.sweep_architectures


def images_to_test(wildcards):
    """Test images with the noise of the network; clean ones where data.noisy_test is false."""
    noise = wildcards.noise if CONFIG.data.noisy_test else "0"
    return f"{RESULTS}/datasets/{wildcards.dataset}/test_noise{noise}.h5"


def gpus(wildcards):
    """Number of GPUs of a job that runs a network."""
    return 0 if CONFIG.device == "cpu" else 1
