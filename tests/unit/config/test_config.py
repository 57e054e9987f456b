import copy
import importlib.util
import re

import pytest
import yaml
from snakemake.utils import update_config

from relstab.architectures import ARCHITECTURES
from relstab.config import ConfigError, load_config
from relstab.training.learning_rate import learning_rate

import helpers
from helpers import ROOT

BASE = yaml.safe_load((ROOT / "config.yaml").read_text())
PAPER = ROOT / "configs/paper.yaml"
BUILDER = f"{ROOT}/configs/own/two_layers.py:build"


def changed(path, value):
    return helpers.changed(BASE, {path: value})


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def merged(path):
    """The config of a run with an overlay."""
    raw = copy.deepcopy(BASE)
    update_config(raw, yaml.safe_load(path.read_text()))
    return raw


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_an_overlay_of_the_default(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # the files that own.yaml names are seen from there
    overlay = yaml.safe_load(path.read_text())
    config = load_config(merged(path), path.name)
    assert config.results == overlay["results"] != BASE["results"]
    assert "$schema=schema.json" in path.read_text().splitlines()[0]
    # What the default config says of single architectures does not reach into it unseen.
    if "epochs" in overlay.get("training", {}):
        for name in config.architectures:
            own = overlay.get("recipes", {}).get(name, {})
            assert config.training_of(name).epochs == own.get("epochs", overlay["training"]["epochs"]), name
            assert config.training_of(name).width == own.get("width", overlay["training"].get("width", 1.0)), name


def test_a_log_whose_package_is_missing_is_refused(monkeypatch):
    load_config(changed("training_log", "tensorboard"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"^expected the package tensorboard, got none: pip .* \(FILE: training_log\)$"):
        load_config(changed("training_log", "tensorboard"), "FILE")
    load_config(BASE)


SIMPLE = "scale_detection.simple"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("probe", {}, "expected one of the keys results, seed, .*, got 'probe' (nearest: 'probes'; FILE: probe)"),
        (
            "probes.cutof",
            4,
            "expected one of the keys images, displacement, .*, got 'cutof' (nearest: 'cutoff'; FILE: PATH)",
        ),
        ("recipes.lenet.learning_rte", 0.1, "expected one of the keys .* (nearest: 'learning_rate'; FILE: PATH)"),
        ("recipes.lennet", {}, "expected one of fc2, .*, got 'lennet' (nearest: 'lenet'; FILE: PATH)"),
        ("architectures", ["fc2", "vgg11bn"], "expected one of fc2, .*, got 'vgg11bn' (nearest: 'vgg11_bn'; FILE: PATH[1])"),
        ("architectures", [], "expected a list with at least 1 entry, got [] (FILE: PATH)"),
        ("architectures", ["lenet", "lenet"], "expected distinct values, got 'lenet' more than once (FILE: PATH)"),
        ("data.name", "cifar", "expected one of mnist5k, .*, got 'cifar' (nearest: 'cifar10'; FILE: PATH)"),
        ("noise", [-1, 2], "expected a number of at least 0, got -1 (FILE: PATH[0])"),
        ("noise", [], "expected a list with at least 1 entry, got [] (FILE: PATH)"),
        ("noise", 3, "expected a list, got 3 (FILE: PATH)"),
        ("noise", [float("nan")], "expected a finite number, got nan (FILE: PATH[0])"),
        ("seeds", 0, "expected a number of at least 1, got 0 (FILE: PATH)"),
        ("seeds", 2.5, "expected a whole number, got 2.5 (FILE: PATH)"),
        ("training.learning_rate", "fast", "expected a number, got 'fast' (FILE: PATH)"),
        (
            "training.weight_decay",
            "5e-4",
            "expected a number, got '5e-4' (YAML reads this as text: write 5.0e-4, .*; FILE: PATH)",
        ),
        ("training.optimizer", "agd", "expected 'sgd' or 'adam', got 'agd' (nearest: 'sgd'; FILE: PATH)"),
        ("training.flip", "yes", "expected true or false, got 'yes' (FILE: PATH)"),
        ("training.epochs", None, "expected a whole number, got null (FILE: PATH)"),
        ("recipes.lenet.width", 0, "expected a number above 0, got 0 (FILE: PATH)"),
        ("recipes.lenet", 3, "expected a section of keys with values, got 3 (FILE: PATH)"),
        ("probes", None, "expected a section of keys with values, got null (FILE: PATH)"),
        ("device", "gpu", "expected 'auto', 'cpu', 'cuda' or 'cuda:N', got 'gpu' (FILE: PATH)"),
        ("channel_shuffle.noise", [5], "expected levels of noise (0, 30), got 5 (FILE: PATH)"),
        ("channel_shuffle.noise", [0, 0.0], "expected distinct values, got 0.0 more than once (FILE: PATH)"),
        ("figures.example", 500, "expected a number below probes.images (500), got 500 (FILE: PATH)"),
        ("data.test_images", 100, "expected at most data.test_images (100), got 500 (FILE: probes.images)"),
        ("data.train_images", [], "expected a list with at least 1 entry, got [] (FILE: PATH)"),
        ("data.train_images", [64, 512, 64], "expected distinct values, got 64 more than once (FILE: PATH)"),
        ("data.train_images", [64, 0], "expected a number of at least 1, got 0 (FILE: PATH[1])"),
        ("data.train_images", "all", "expected a whole number, got 'all' (FILE: PATH)"),
        (
            "probes.sweep",
            [{"displacement": [1, -1], "cutoff": 3}],
            "expected a number of at least 0.001, got -1 (FILE: PATH[0].displacement[1])",
        ),
        ("probes.sweep", [{"displacement": 1}], "expected the key cutoff, which has no default (FILE: PATH[0].cutoff)"),
        ("probes.sweep_architectures", ["vgg"], "expected one of fc2, .*, got 'vgg' (nearest: .*; FILE: PATH[0])"),
        ("training.activation", "sin", "expected 'relu', 'tanh', 'gelu' or 'abs', got 'sin' (FILE: PATH)"),
        ("training.precision", "float16", "expected 'auto', 'float32' or 'bfloat16', got 'float16' (nearest: .*; FILE: PATH)"),
        (
            "training.pooling",
            "average",
            "expected 'none' for fc2, .*, got 'average': set recipes.fc2.pooling to none (FILE: PATH)",
        ),
        ("recipes.resnet18.pooling", "max", "expected 'none' for resnet18, .* (FILE: PATH)"),
        ("training.snapshots", -1, "expected a number of at least 0, got -1 (FILE: PATH)"),
        ("jobs_per_gpu", 0, "expected a number of at least 1, got 0 (FILE: PATH)"),
        ("checkpoint_minutes", 0, "expected a number above 0, got 0 (FILE: PATH)"),
        ("results", "out/{x}", "expected a path without braces, .*, got 'out/{x}' (FILE: PATH)"),
        ("results", "", "expected a path .*, got '' (FILE: PATH)"),
        ("seeds", 10**9, "expected a number of at most 10000, got 1000000000 (FILE: PATH)"),
        ("seed", 2**53 + 1, "expected a number of at most 9.0072e+15, got 9007199254740993 (FILE: PATH)"),
        ("channel_shuffle.count", 10**9, "expected a number of at most 10000, got 1000000000 (FILE: PATH)"),
        (f"{SIMPLE}.task1_strided.size", 10**9, "expected a number of at most 1e+06, got 1000000000 (FILE: PATH)"),
        (
            "noise",
            [0, 10, 10.0000001],
            "expected levels that differ in their first 6 digits, as figures print them, got 10.0000001 and 10 (FILE: PATH)",
        ),
        ("noise", [10, 10.000000000001], "expected distinct values, got 10.0 more than once (FILE: PATH)"),
        ("probes.displacement", 1e-7, "expected a number of at least 0.001, got 1e-07 (FILE: PATH)"),
        ("results", "$HOME/x", "expected a path without variables, got '$HOME/x': write out what $ stands for (FILE: PATH)"),
        ("data.root", "${DATA}", "expected a path without .* (FILE: PATH)"),
        ("correlation.confidence", 95, "expected a number below 1, got 95 (FILE: PATH)"),
        # The sentences of these are those of the classes that check them.
        (f"{SIMPLE}.task1_strided.scale", 65, ".*scale.*FILE: SECTION)"),
        (f"{SIMPLE}.task1_strided.gap", 32, ".*gap.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.gap", 1, ".*gap.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.scale", 30, ".*scale.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.channels", 0, ".*channels.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.depth", -1, ".*depth.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.stride", 3, ".*stride.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.pairs", 99, ".*99.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.pairs", 4096, ".*4096.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.weight_decay", 200, ".*weight_decay.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.learning_rate", float("nan"), "expected a finite number, got nan (FILE: PATH)"),
        (f"{SIMPLE}.task1_stride1.filter_size", 131, ".*131.*FILE: SECTION)"),
        ("scale_detection.images.scale", 15, ".*scale.*FILE: SECTION)"),
        ("scale_detection.images.train_pairs", 7, ".*7.*FILE: SECTION)"),
        (f"{SIMPLE}.task2_strided.pears", 8, "expected one of the keys .* (nearest: 'pairs'; FILE: PATH)"),
        (f"{SIMPLE}.task2_strided.activations", ["tanhh"], "expected .*, got 'tanhh' (nearest: 'tanh'; FILE: PATH[0])"),
        (f"{SIMPLE}.task2_strided.filter_size", 1, "expected a number of at least 2, got 1 (FILE: PATH)"),
        (f"{SIMPLE}.homogeneous_strided", {}, "expected a name that no network of homogeneous filters has .* (FILE: PATH)"),
        (f"{SIMPLE}.a-b", {}, "expected a name of letters, digits and underscores, got 'a-b' (FILE: PATH)"),
        ("scale_detection.images.training.pooling", "average", "expected 'none' for resnet18, .* (FILE: PATH)"),
        ("scale_detection.images.training.snapshots", 3, "expected 0 snapshots of lenet, .* (FILE: scale_detection.images)"),
        (
            "scale_detection.images.architectures",
            ["lennet"],
            "expected one of .*, got 'lennet' (nearest: 'lenet'; FILE: PATH[0])",
        ),
        ("scale_detection.images.recipes.lenet.epoch", 3, "expected .* (nearest: 'epochs'; FILE: PATH)"),
        ("scale_detection.probes", 3000, "expected at most scale_detection.images.test_pairs (2000), got 3000 (FILE: PATH)"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(path, value, sentence):
    """PATH is the wrong key, SECTION the one that holds it, FILE the config, and ".*" any text."""
    with pytest.raises(ConfigError) as caught:
        load_config(changed(path, value), "mine.yaml")
    sentence = sentence.replace("FILE", "mine.yaml").replace("PATH", path).replace("SECTION", path.rpartition(".")[0])
    parts = map(re.escape, sentence.split(".*"))
    assert re.fullmatch(".*".join(parts), str(caught.value)), caught.value


@pytest.mark.parametrize("installed", [True, False])
def test_networks_of_timm_need_timm(monkeypatch, installed):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if installed else None)
    names = ["resnet18", "timm:convnext_atto", "timm:resnet18.a1_in1k"]
    raw = {"imagenet": {"networks": names, "weights": {"timm:convnext_atto": "a.pth"}}}
    if installed:
        assert load_config(raw).imagenet.networks == names
        return
    sentence = (
        r"expected timm, which is not installed, for 'timm:convnext_atto': pip install timm "
        r"\(config.yaml: imagenet.networks\[1\]\)\n"
    )
    with pytest.raises(ConfigError, match=sentence):
        load_config(raw)


@pytest.mark.parametrize("name", ["timm:a b", "timm:a/b", "resnet-18", "timm:", "timm:x.y.z", "torchvision:resnet18"])
def test_names_of_pretrained_networks_are_checked(name):
    with pytest.raises(
        ConfigError, match=r"expected a name in torchvision or timm, such as .*\(config.yaml: imagenet.networks\[0\]\)"
    ):
        load_config({"imagenet": {"networks": [name]}})


def test_sizes_and_sweeps_are_axes():
    assert load_config({"data": {"train_images": [512, 64]}}).data.training_sizes == [512, 64]
    assert load_config({"data": {"train_images": 64}}).data.training_sizes == [None]


def test_auto_is_an_axis_of_the_default_data_set_alone():
    assert load_config({}).data.training_sizes == [100, 600, 4000]
    assert load_config({"data": {"train_images": None}}).data.training_sizes == [None]
    other = load_config({"data": {"name": "cifar10"}}).data
    assert (other.training_sizes, other.kept_training_images) == ([None], None)
    assert load_config({"data": {"name": "cifar10", "train_images": 64}}).data.kept_training_images == 64
    sweep = [{"displacement": 1, "cutoff": 3}, {"displacement": [0.5, 1.0], "cutoff": 3}, {"displacement": 0.5, "cutoff": 15}]
    assert load_config({"probes": {"sweep": sweep}}).probes.sweep_pairs == [(1.0, 3), (0.5, 3), (0.5, 15)]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        # Of one key alone, of the same section together, of two sections.
        ({"noise": []}, {"seeds": "two"}),
        ({"architectures": ["vgg"]}, {"recipes": {"vgg11_nb": {}}}),
        ({"imagenet": {"crop": 500}}, {"data": {"name": "minst"}}),
    ],
)
def test_every_wrong_key_has_its_sentence(one, two):
    with pytest.raises(ConfigError) as caught:
        load_config(one | two)
    assert len(str(caught.value).splitlines()) == 2


def test_checking_registers_nothing():
    """Only ``own_architectures`` registers; a config knows its own without it."""
    before = dict(ARCHITECTURES)
    raw = {"architectures": ["mine"], "own_architectures": {"mine": {"builder": BUILDER}}, "recipes": {"mine": {"epochs": 3}}}
    config = load_config(raw)
    assert config.training_of("mine") == config.training.model_copy(update={"epochs": 3})
    assert before == ARCHITECTURES
    with pytest.raises(ConfigError, match=r"expected one of fc2, .*, got 'mine'"):
        load_config({"architectures": ["mine"]})


def test_an_architectures_needs_win_over_training_and_recipes_over_both():
    config = load_config(BASE)
    vgg = config.training_of("vgg11")
    assert vgg.width == BASE["recipes"]["vgg11"]["width"]
    assert vgg.batch_size == BASE["training"]["batch_size"]
    assert (vgg.learning_rate, vgg.initialization, vgg.warmup_epochs) == (0.02, "he", 2)
    fc = config.training_of("fc2")
    assert (fc.optimizer, fc.learning_rate, fc.schedule, fc.weight_decay) == ("adam", 0.1, "constant", 0)
    assert load_config(changed("recipes.fc2.learning_rate", 0.01)).training_of("fc2").schedule == "constant"
    assert load_config(changed("training.learning_rate", 0.3)).training_of("vgg11").learning_rate == 0.02
    assert load_config(changed("training.learning_rate", 0.3)).training_of("resnet18").learning_rate == 0.3
    assert load_config(changed("recipes.vgg11.learning_rate", 0.3)).training_of("vgg11").learning_rate == 0.3
    # A learning rate that was found with sgd does not hold for adam, and the other way round.
    adam = changed("training.optimizer", "adam")
    adam["training"]["learning_rate"] = 2e-3
    assert load_config(adam).training_of("vgg11").learning_rate == 2e-3
    assert load_config(adam).training_of("vgg11").initialization == "he"
    sgd = changed("recipes.fc2.optimizer", "sgd")
    assert load_config(sgd).training_of("fc2").learning_rate == BASE["training"]["learning_rate"]
    assert load_config(sgd).training_of("fc2").schedule == "cosine"
    assert load_config(changed("recipes.vgg11.weight_decay", 0)).training_of("vgg11").weight_decay == 0
    assert load_config(changed("recipes.fc2.seeds", 5)).seeds_of("fc2") == [0, 1, 2, 3, 4]
    assert config.seeds_of("lenet") == [0, 1]


def test_the_lowest_noise_level_is_shuffled_by_default():
    assert load_config(changed("noise", [3, 0.5])).shuffled_noise == [0.5]
    assert load_config(changed("channel_shuffle.noise", [])).shuffled_noise == []
    assert load_config(changed("channel_shuffle.noise", [0, 30])).shuffled_noise == [0, 30]


def test_experiments_can_be_left_out_and_scale_detection_switched_off():
    config = load_config(changed("scale_detection.simple.task1_strided", None))
    assert "task1_strided" not in config.scale_detection.experiments
    assert "task2_strided" in config.scale_detection.experiments
    config = load_config(changed("scale_detection.enabled", False))
    assert config.scale_detection.experiments == {}
    assert config.scale_detection.architectures == []


def test_deep_networks_on_pairs_have_their_own_recipe():
    config = load_config(changed("scale_detection.images.recipes.lenet", {"width": 2.0, "seeds": 5}))
    images = config.scale_detection.images
    assert images.training_of("lenet").loss == "hinge"
    assert images.training_of("lenet").width == 2
    assert images.seeds_of("lenet") == [0, 1, 2, 3, 4]
    assert config.training_of("lenet").loss == "cross_entropy"


def test_the_papers_config_has_scale_detection_at_the_size_of_the_reference():
    """L = 128, xi = 32, H = 1000, ten seeds, 1,024 pairs in batches of 8; with strides F = s = 2, K = 7, gap 0 and a ridge."""
    config = load_config(merged(PAPER))
    for name, experiment in config.scale_detection.experiments.items():
        assert (experiment.size, experiment.scale, experiment.channels) == (128, 32, 1000), name
        assert (experiment.seeds, experiment.pairs, experiment.batch_size) == (10, 1024, 8), name
        if experiment.stride > 1:
            assert (experiment.filter_size, experiment.stride, experiment.depth, experiment.gap) == (2, 2, 7, 0), name
            for activation in ("relu", "tanh"):
                recipe = experiment.recipe(activation)
                assert (recipe["ridge"], recipe["interpolation_factor"], recipe.get("decay_epochs", 0)) == (0.01, 500, 0), name
    images = config.scale_detection.images
    assert (images.size, images.scale, images.gap, images.train_pairs, images.seeds) == (28, 14, 0, 1024, 10)
    for name in images.architectures:
        recipe = images.training_of(name)
        assert (recipe.loss, recipe.epochs, recipe.batch_size, recipe.width) == ("hinge", 300, 128, 1.0), name
        assert recipe.learning_rate == (0.02 if name in ("lenet", "alexnet", "vgg11") else 0.05), name


def test_the_papers_config_holds_its_recipe():
    """SGD, momentum 0.9, learning rate 0.1, decay 5e-4, cosine with T_max of 0.8 of 250 epochs, batches of 128, 4 seeds.

    Eleven of the fully connected, which have Adam at a constant 0.1 without decay. The weights of best test error.
    """
    config = load_config(merged(PAPER))
    assert config.noise == [0, 0.01, 0.1, 1, 10, 30, 100]
    assert config.architectures == [
        "fc2", "fc4", "fc6", "lenet", "alexnet", "vgg11", "vgg11_bn", "vgg16_bn", "vgg19_bn", "resnet18", "resnet34", "resnet50",
        "efficientnet_b0",
    ]  # fmt: skip
    assert (config.data.mean, config.data.std) == ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    assert (config.data.name, config.sensitivity.weights) == ("cifar10", "best")
    assert (config.probes.images, config.channel_shuffle.count) == (500, 5)
    assert "vgg16_bn" in config.imagenet.networks
    for name in config.architectures:
        recipe = config.training_of(name)
        assert (recipe.epochs, recipe.batch_size, recipe.width) == (250, 128, 1.0), name
        assert (recipe.schedule, recipe.schedule_fraction) == ("constant" if name.startswith("fc") else "cosine", 0.8), name
        assert (recipe.crop_padding, recipe.flip, recipe.diffeo_displacement) == (4, True, 0), name
        assert len(config.seeds_of(name)) == (11 if name.startswith("fc") else 4), name
    for name in ("vgg11_bn", "resnet18", "resnet50", "efficientnet_b0"):
        recipe = config.training_of(name)
        assert (recipe.optimizer, recipe.learning_rate, recipe.momentum, recipe.weight_decay) == ("sgd", 0.1, 0.9, 5e-4), name
    for name in config.architectures:
        recipe = config.training_of(name)
        # The departures that docs/conventions.md names.
        assert recipe.warmup_epochs == (2 if name in ("alexnet", "vgg16_bn", "vgg19_bn") else 0), name
        assert recipe.learning_rate == (0.02 if name == "alexnet" else 0.1), name
        assert recipe.initialization == ("he" if name == "alexnet" else "default"), name
        if name.startswith("fc"):
            assert (recipe.optimizer, recipe.weight_decay) == ("adam", 0), name


@pytest.mark.parametrize("path", [None, *CONFIGS], ids=lambda path: path.stem if path else "-")
def test_no_epoch_of_any_shipped_config_has_a_learning_rate_of_zero(path, monkeypatch):
    """At schedule_fraction 0.8, a fifth of the epochs once trained nothing."""
    monkeypatch.chdir(ROOT)
    config = load_config(merged(path) if path else BASE)
    images = config.scale_detection.images
    recipes = [config.training_of(name) for name in config.architectures]
    recipes += [images.training_of(name) for name in config.scale_detection.architectures]
    for recipe in recipes:
        epochs = [
            [learning_rate(step, 10, recipe) for step in range(10 * epoch, 10 * epoch + 10)] for epoch in range(recipe.epochs)
        ]
        assert all(sum(rate > 0 for rate in rates) >= 9 for rates in epochs)
        assert sum(rate < 1e-9 for rates in epochs for rate in rates) <= 1
