"""Section ``scale_detection``: tasks that spatial pooling solves.

The bounds of tasks, networks and their training are those of the classes that describe them (``ScaleTask``, ``SimpleDesign``,
``EnsembleRecipe``), which check them for users of the library as well.
"""

from typing import Annotated, Any

from pydantic import Field, model_validator

from relstab.architectures import ActivationName
from relstab.config.section import AtLeastTwo, Distinct, Name, Number, Section, Seeds, Whole, arguments_of, key, refuse
from relstab.config.training import PairTraining, Recipe, TrainedNetworks
from relstab.scale_detection.design import VALIDATION, EnsembleRecipe, Scaling, SimpleDesign
from relstab.scale_detection.homogeneous import HOMOGENEOUS
from relstab.scale_detection.tasks import Norm, Rule, ScaleTask, check_split

EXPERIMENTS = {
    "task1_stride1": {
        "rule": "distance", "size": 64, "scale": 16, "gap": 2, "pairs": 512, "depth": 8, "filter_size": 5, "stride": 1,
        "channels": 32, "scaling": "mean_field", "activations": ["relu"], "seeds": 6, "learning_rate": 0.01,
        "batch_size": 8, "epochs": 60, "decay_epochs": 80, "decay_activations": ["relu"], "weight_decay": 0.1,
        "ridge": 0.0, "interpolation_factor": 500,
    },
    "task1_strided": {
        "rule": "distance", "size": 128, "scale": 32, "gap": 4, "pairs": 1024, "depth": 7, "filter_size": 2, "stride": 2,
        "channels": 100, "activations": ["relu"], "seeds": 6, "epochs": 60, "decay_epochs": 80, "weight_decay": 0.05,
    },
    "task2_stride1": {
        "rule": "block", "size": 64, "scale": 16, "pairs": 512, "depth": 8, "filter_size": 5, "stride": 1,
        "channels": 32, "activations": ["relu"], "seeds": 6, "epochs": 15,
    },
    "task2_strided": {
        "rule": "block", "size": 128, "scale": 32, "pairs": 1024, "depth": 7, "filter_size": 2, "stride": 2,
        "channels": 100, "activations": ["relu", "tanh"], "seeds": 6, "epochs": 120, "decay_epochs": 80,
        "decay_activations": ["relu", "tanh"], "weight_decay": 0.05,
    },
}  # fmt: skip


class SimpleExperiment(Section):
    """One kind of simple CNN on one scale-detection task on a ring; as many networks as seeds for each activation."""

    rule: Rule = key(
        "distance",
        "distance: Task 1, the two sites are nearer than the scale or farther; block: Task 2, they are in the same block or not.",
    )
    size: Whole = key(64, "L, sites of the ring.")
    scale: Whole = key(16, "xi, in sites: at most half the ring, and for blocks a divisor of it.")
    gap: Number = key(0.0, "Pairs at distances from scale - gap to scale + gap are left out; 0 for blocks.")
    pairs: Whole = key(512, "P, training pairs, half of them of each label; all others are for the test.")
    depth: Whole = key(8, "K, convolutional layers.")
    filter_size: AtLeastTwo = key(5, "F, sites of a filter.")
    stride: Whole = key(1, "s, sites between windows, at most filter_size.")
    channels: Whole = key(32, "H, channels of every layer.")
    scaling: Scaling = key("mean_field", "Factor of the read-out: mean_field, 1 / H, or ntk, 1 / sqrt(H).")
    activations: Annotated[Distinct[ActivationName], Field(min_length=1)] = key(
        ["relu"], "relu, tanh, gelu, abs: one set of networks for each."
    )
    seeds: Seeds = key(6, "Networks, which are trained at once.")
    learning_rate: Number = key(0.01, "Learning rate of gradient descent, times H in the mean-field scaling.")
    batch_size: Whole = key(8, "Pairs per step.")
    epochs: Whole = key(60, "Passes over the pairs, at most: training ends when its loss is zero, or, with a ridge, later.")
    decay_epochs: Whole = key(
        0,
        "Passes with weight decay after that. They remove what is left of the random initial weights, which hides the "
        "pooling; 0: none.",
    )
    decay_activations: list[ActivationName] = key(
        ["relu"], "Activations whose networks get these passes: the theory is about ReLU, and tanh networks can lose the task."
    )
    weight_decay: Number = key(0.05, "Share of the weights that a step of these passes takes off, in units of the learning rate.")
    ridge: Number = key(
        0.0,
        "r of the penalty r sum |w|^2 / (H K) from the first pass on, without decay_epochs; 0: none. With one, training ends "
        "with a pass without loss or error on 128 validation pairs, after at least interpolation_factor times the passes to "
        "the first zero loss.",
    )
    interpolation_factor: Whole = key(500, "See ridge; 500 in the reference implementation.")

    def task(self) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.tasks.ScaleTask`."""
        return arguments_of(ScaleTask, self)

    def design(self, activation: str) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.design.SimpleDesign`."""
        return {**arguments_of(SimpleDesign, self), "activation": activation}

    def recipe(self, activation: str) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.design.EnsembleRecipe`."""
        recipe = arguments_of(EnsembleRecipe, self)
        if not self.decay_epochs or activation not in self.decay_activations:
            del recipe["decay_epochs"], recipe["weight_decay"]
        if not self.ridge:
            del recipe["ridge"], recipe["interpolation_factor"]
        return recipe

    def check(self) -> None:
        """Raise an error if the task, the network or its training is impossible."""
        task = ScaleTask(**self.task())
        SimpleDesign(**arguments_of(SimpleDesign, self)).sizes(task.size)
        EnsembleRecipe(**arguments_of(EnsembleRecipe, self))
        check_split(task.counts, self.pairs + (VALIDATION if self.ridge else 0))


class PairImages(TrainedNetworks):
    """Deep networks on images with two lit pixels."""

    rule: Rule = key("distance", "distance, or block: the same block or not (the quadrants, where scale is half the size).")
    size: Whole = key(28, "n, rows and columns.")
    scale: Whole = key(14, "xi, in pixels: at most half the image.")
    gap: Number = key(2.0, "Pairs at distances from scale - gap/2 to scale + gap/2 are left out; 0 for blocks.")
    norm: Norm = key("L2", "Norm of the displacement between the pixels: L2 or Linf.")
    periodic: bool = key(False, "Whether distances go round the edges.")
    train_pairs: Whole = key(1024, "P, training pairs, half of them of each label.")
    test_pairs: Whole = key(2000, "Test pairs, half of them of each label.")
    architectures: Distinct[str] = key(["lenet", "vgg11", "vgg11_bn", "resnet18"], "Networks to train, of those above; []: none.")
    seeds: Seeds = key(2, "Networks of each architecture.")
    training: PairTraining = Field(default_factory=PairTraining)
    recipes: dict[str, Recipe] = key(
        {
            "lenet": {"epochs": 20},
            "vgg11": {"width": 0.25, "learning_rate": 0.01},
            "vgg11_bn": {"width": 0.25},
            "resnet18": {"width": 0.125},
        },
        "As recipes above.",
        validate_default=True,
    )

    def task(self) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.tasks.ScaleTask`."""
        return {**arguments_of(ScaleTask, self), "dimension": 2}

    def check(self) -> None:
        """Raise an error if the task or its split is impossible, or if a training run could not be measured."""
        check_split(ScaleTask(**self.task()).counts, self.train_pairs, self.test_pairs)
        for name in self.architectures:
            if snapshots := self.training_of(name).snapshots:
                raise ValueError(
                    f"expected 0 snapshots of {name}, as pair networks are not measured over training, got {snapshots}"
                )


class ScaleDetection(Section):
    """Tasks that a network solves by spatial pooling alone, for which the sensitivities of its layers can be predicted: images
    with two lit sites, told apart by the distance between them. They need no data set.
    """

    enabled: bool = key(True, "Whether to run them.")
    simple: dict[Name, SimpleExperiment | None] = key(
        EXPERIMENTS,
        "Simple CNNs on a ring, by a name of your choice (null instead of a section leaves one out): filters, strides and an "
        "average. Without strides, Task 2 cannot be learned: such a network sees the distance between two "
        "sites, not where blocks are.",
        validate_default=True,
    )
    probes: AtLeastTwo = key(500, "P, test pairs that are perturbed; all of them, where a ring has fewer.")
    images: PairImages = Field(default_factory=PairImages)

    @model_validator(mode="after")
    def _agree(self) -> "ScaleDetection":
        wrong = {}
        checks: dict[str, SimpleExperiment | PairImages] = {f"simple.{name}": entry for name, entry in self.experiments.items()}
        for where, section in (checks | ({"images": self.images} if self.architectures else {})).items():
            try:
                section.check()
            except ValueError as error:
                wrong[where] = str(error)
        for name in filter(HOMOGENEOUS.__contains__, self.simple):
            wrong[f"simple.{name}"] = f"expected a name that no network of homogeneous filters has in the tables, got {name!r}"
        if self.architectures and self.probes > self.images.test_pairs:
            wrong["probes"] = f"expected at most scale_detection.images.test_pairs ({self.images.test_pairs}), got {self.probes}"
        refuse(wrong)
        return self

    @property
    def experiments(self) -> dict[str, SimpleExperiment]:
        """The experiments to run, by name."""
        return {name: experiment for name, experiment in self.simple.items() if experiment is not None and self.enabled}

    @property
    def architectures(self) -> list[str]:
        """The deep networks to train."""
        return self.images.architectures if self.enabled else []
