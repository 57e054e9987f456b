import copy

import pytest
import yaml

from relstab.architectures import ARCHITECTURES
from relstab.config import ConfigError, load_config

from helpers import ROOT

BASE = yaml.safe_load((ROOT / "config.yaml").read_text())


def changed(path, value):
    raw = copy.deepcopy(BASE)
    *sections, key = path.split(".")
    place = raw
    for section in sections:
        place = place.setdefault(section, {})
    place[key] = value
    return raw


def test_the_default_config_is_valid():
    config = load_config(BASE)
    assert len(config.architectures) >= 5
    assert len(config.noise) >= 3
    assert config.seeds >= 2


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("probe", {}, "probe: there is no such key; one of results, seed,"),
        ("probe", {}, "(nearest: 'probes')"),
        ("probes.cutof", 4, "probes.cutof: there is no such key; one of images, displacement, cutoff,"),
        ("probes.cutof", 4, "(nearest: 'cutoff')"),
        ("recipes.lenet.learning_rte", 0.1, "(nearest: 'learning_rate')"),
        ("recipes.lennet", {}, "recipes: 'lennet' is unknown; one of fc2,"),
        ("architectures", ["vgg11bn"], "architectures: 'vgg11bn' is unknown; one of fc2, fc4, fc6, lenet, alexnet,"),
        ("architectures", ["vgg11bn"], "(nearest: 'vgg11_bn')"),
        ("architectures", [], "architectures: [] is given; a list with at least one entry is wanted"),
        ("architectures", ["lenet", "lenet"], "architectures: 'lenet' stands there more than once"),
        ("data.name", "cifar", "data.name: 'cifar' is unknown; one of mnist5k, mnist, fashionmnist, cifar10, cifar100, svhn,"),
        ("data.name", "cifar", "(nearest: 'cifar10')"),
        ("noise", [-1, 2], "noise[0]: -1 is given; a number of at least 0"),
        ("noise", [], "noise: [] is given; a list with at least one entry"),
        ("noise", 3, "noise: 3 is given; a list is wanted"),
        ("noise", [float("nan")], "noise[0]: nan is given; a finite number is wanted"),
        ("seeds", 0, "seeds: 0 is given; a number of at least 1"),
        ("seeds", 2.5, "seeds: 2.5 is given; a whole number is wanted"),
        ("training.learning_rate", "fast", "training.learning_rate: 'fast' is given; a number is wanted"),
        ("training.weight_decay", "5e-4", "(YAML reads this as a text: write 5.0e-4"),
        ("training.optimizer", "agd", "training.optimizer: 'agd' is given; 'sgd' or 'adam' is wanted (nearest: 'sgd')"),
        ("training.flip", "yes", "training.flip: 'yes' is given; true or false is wanted"),
        ("training.epochs", None, "training.epochs: None is given; a whole number is wanted"),
        ("recipes.lenet.width", 0, "recipes.lenet.width: 0 is given; a number above 0"),
        ("recipes.lenet", 3, "recipes.lenet: 3 is given; a section of keys with values is wanted"),
        ("probes", None, "probes: None is given; a section of keys with values is wanted"),
        ("device", "gpu", "device: 'gpu' is given; 'auto', 'cpu', 'cuda' or 'cuda:N' is wanted"),
        ("channel_shuffle.noise", [5], "channel_shuffle.noise holds 5, which is not among the noise levels"),
        ("channel_shuffle.noise", [0, 0.0], "channel_shuffle.noise: 0.0 stands there more than once"),
        ("figures.example", 500, "figures.example is 500 and probes.images is 500"),
        ("data.test_images", 100, "probes.images is 500 and data.test_images is 100"),
        ("training.activation", "sin", "training.activation: 'sin' is given; 'relu', 'tanh', 'gelu' or 'abs' is wanted"),
        ("training.precision", "float16", "'auto', 'float32' or 'bfloat16' is wanted (nearest:"),
        ("training.pooling", "average", "pooling of fc2 is 'average' (training.pooling or recipes.fc2.pooling), and it has no"),
        ("recipes.resnet18.pooling", "max", "pooling of resnet18 is 'max'"),
        ("training.snapshots", -1, "training.snapshots: -1 is given; a number of at least 0"),
        ("jobs_per_gpu", 0, "jobs_per_gpu: 0 is given; a number of at least 1"),
        ("checkpoint_minutes", 0, "checkpoint_minutes: 0 is given; a number above 0"),
        ("results", "out/{x}", "results: 'out/{x}' is given; a folder without braces"),
        ("correlation.confidence", 95, "correlation.confidence: 95 is given; a number below 1"),
        (
            "scale_detection.simple.task1_strided.scale",
            65,
            "task1_strided: scale is 65 and size is 128: from 1 to half",
        ),
        (
            "scale_detection.simple.task1_strided.gap",
            32,
            "gap is 32 and scale is 32: a gap from 0 to below the scale",
        ),
        ("scale_detection.simple.task2_strided.gap", 1, "task2_strided: gap is 1 and rule is 'block'"),
        ("scale_detection.simple.task2_strided.scale", 30, "task2_strided: scale is 30 and size is 128: blocks that fill"),
        (
            "scale_detection.simple.task2_strided.channels",
            0,
            "task2_strided.channels: 0 is given; a number of at least 1",
        ),
        ("scale_detection.simple.task2_strided.depth", -1, "task2_strided.depth: -1 is given; a number of at least 1 is wanted"),
        ("scale_detection.simple.task2_strided.stride", 3, "task2_strided: stride is 3 and filter_size is 2"),
        ("scale_detection.simple.task2_strided.pairs", 99, "task2_strided: train is 99: an even number of pairs"),
        ("scale_detection.simple.task2_strided.pairs", 4096, "task2_strided: 4096 training pairs and some test pairs are wanted"),
        ("scale_detection.simple.task2_strided.pears", 8, "(nearest: 'pairs')"),
        ("scale_detection.simple.task2_strided.activations", ["tanhh"], "(nearest: 'tanh')"),
        ("scale_detection.simple.task2_strided.filter_size", 1, "task2_strided.filter_size: 1 is given; a number of at least 2"),
        ("scale_detection.simple.task2_strided.weight_decay", 200, "task2_strided: weight_decay is 200.0 and learning_rate 0.01"),
        (
            "scale_detection.simple.task1_stride1.filter_size",
            131,
            "task1_stride1: depth is 8, and on a size of 64 layer 1 sees 64 sites",
        ),
        ("scale_detection.simple.homogeneous_strided", {}, "'homogeneous_strided' is the name of a network of homogeneous"),
        (
            "scale_detection.images.training.pooling",
            "average",
            "pooling of resnet18 is 'average' (scale_detection.images.training",
        ),
        ("scale_detection.images.training.snapshots", 3, "scale_detection.images: snapshots of lenet are 3"),
        ("scale_detection.simple.a-b", {}, "'a-b' is no name of an experiment"),
        ("scale_detection.images.scale", 15, "scale_detection.images: scale is 15 and size is 28: from 1 to half the image, 14"),
        ("scale_detection.images.architectures", ["lennet"], "'lennet' is unknown"),
        ("scale_detection.images.recipes.lenet.epoch", 3, "(nearest: 'epochs')"),
        ("scale_detection.images.train_pairs", 7, "scale_detection.images: train is 7: an even number of pairs"),
        ("scale_detection.probes", 3000, "scale_detection.probes is 3000 and scale_detection.images.test_pairs is 2000"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(path, value, sentence):
    with pytest.raises(ConfigError) as caught:
        load_config(changed(path, value), "config.yaml")
    message = str(caught.value)
    assert message.startswith("config.yaml: ")
    assert "\n" not in message
    assert sentence in message


def test_every_wrong_key_has_its_sentence():
    raw = changed("noise", [])
    raw["seeds"] = "two"
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert len(str(caught.value).splitlines()) == 2


def test_recipes_say_what_is_otherwise():
    config = load_config(BASE)
    vgg = config.training_of("vgg11")
    assert vgg.width == BASE["recipes"]["vgg11"]["width"]
    assert vgg.batch_size == BASE["training"]["batch_size"]
    # What an architecture needs to learn stands between the two.
    assert (vgg.learning_rate, vgg.initialization, vgg.warmup_epochs) == (0.02, "he", 2)
    assert load_config(changed("training.learning_rate", 0.3)).training_of("vgg11").learning_rate == 0.02
    assert load_config(changed("training.learning_rate", 0.3)).training_of("resnet18").learning_rate == 0.3
    assert load_config(changed("recipes.vgg11.learning_rate", 0.3)).training_of("vgg11").learning_rate == 0.3
    # A rate that was found with sgd is none for adam, and the other way round.
    adam = changed("training.optimizer", "adam")
    adam["training"]["learning_rate"] = 2e-3
    assert load_config(adam).training_of("vgg11").learning_rate == 2e-3
    assert load_config(adam).training_of("vgg11").initialization == "he"
    sgd = changed("recipes.fc2.optimizer", "sgd")
    assert load_config(sgd).training_of("fc2").learning_rate == BASE["training"]["learning_rate"]
    assert config.training_of("fc2").optimizer == "adam"
    assert config.training_of("fc2").weight_decay == 0
    assert load_config(changed("recipes.vgg11.weight_decay", 0)).training_of("vgg11").weight_decay == 0
    assert load_config(changed("recipes.fc2.seeds", 5)).seeds_of("fc2") == [0, 1, 2, 3, 4]
    assert config.seeds_of("lenet") == [0, 1]


def test_the_lowest_noise_level_is_shuffled_unless_the_config_says_otherwise():
    assert load_config(changed("noise", [3, 0.5])).shuffled_noise == [0.5]
    assert load_config(changed("channel_shuffle.noise", [])).shuffled_noise == []
    assert load_config(changed("channel_shuffle.noise", [0, 30])).shuffled_noise == [0, 30]


def merge(base, overlay):
    """Sections key by key, as Snakemake merges config files."""
    merged = dict(base)
    for key, value in overlay.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def test_an_experiment_can_be_left_out_and_all_of_scale_detection_be_switched_off():
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
    """L = 128, xi = 32, H = 1000, ten seeds, 1,024 pairs in batches of 8; F = s = 2 and K = 7 with strides."""
    config = load_config(merge(BASE, yaml.safe_load((ROOT / "configs" / "paper.yaml").read_text())))
    for name, experiment in config.scale_detection.experiments.items():
        assert (experiment.size, experiment.scale, experiment.channels) == (128, 32, 1000), name
        assert (experiment.seeds, experiment.pairs, experiment.batch_size) == (10, 1024, 8), name
        if experiment.stride > 1:
            assert (experiment.filter_size, experiment.stride, experiment.depth) == (2, 2, 7), name
    images = config.scale_detection.images
    assert (images.size, images.scale, images.gap, images.train_pairs, images.seeds) == (28, 14, 2, 1024, 10)
    for name in images.architectures:
        recipe = images.training_of(name)
        assert (recipe.loss, recipe.epochs, recipe.batch_size, recipe.width) == ("hinge", 300, 128, 1.0), name
        assert recipe.learning_rate == (0.02 if name in ("lenet", "alexnet", "vgg11") else 0.05), name


def test_the_papers_config_holds_its_recipe():
    """SGD, momentum 0.9, rate 0.1, weight decay 5e-4, cosine over 0.8 of 250 epochs, batches of 128; four seeds, ten of fc."""
    overlay = yaml.safe_load((ROOT / "configs" / "paper.yaml").read_text())
    merged = copy.deepcopy(BASE)
    for key, value in overlay.items():
        if isinstance(value, dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    config = load_config(merged, "config.yaml with paper.yaml")
    assert config.noise == [0, 0.01, 0.1, 1, 10, 30, 100]
    assert set(config.architectures) == set(ARCHITECTURES)
    for name in config.architectures:
        recipe = config.training_of(name)
        assert (recipe.epochs, recipe.batch_size, recipe.width) == (250, 128, 1.0), name
        assert (recipe.schedule, recipe.schedule_fraction) == ("cosine", 0.8), name
        assert (recipe.crop_padding, recipe.flip, recipe.diffeo_displacement) == (4, True, 0), name
        assert len(config.seeds_of(name)) == (10 if name.startswith("fc") else 4), name
    for name in ("vgg11_bn", "resnet18", "resnet50", "efficientnet_b0"):
        recipe = config.training_of(name)
        assert (recipe.optimizer, recipe.learning_rate, recipe.momentum, recipe.weight_decay) == ("sgd", 0.1, 0.9, 5e-4), name
    for name in config.architectures:
        recipe = config.training_of(name)
        deep_or_bare = name in ("alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg16_bn", "vgg19_bn")
        assert recipe.warmup_epochs == (2 if deep_or_bare else 0), name
        rates = {"fc2": 1e-3, "fc4": 1e-3, "fc6": 1e-3, "lenet": 0.02, "alexnet": 0.02}
        bare_vgg = name.startswith("vgg") and not name.endswith("_bn")
        assert recipe.learning_rate == rates.get(name, 0.02 if bare_vgg else 0.1), name
    assert config.training_of("fc6").weight_decay == 0
