"""Section ``scale_detection``: tasks that spatial pooling solves.

The bounds of tasks, networks and their training are those of the classes that describe them (``ScaleTask``, ``SimpleDesign``,
``EnsembleRecipe``), which check them for users of the library as well.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from relstab.architectures import ActivationName
from relstab.config.section import AtLeastTwo, Count, Name, Section, WrongKeys, arguments_of, distinct
from relstab.config.training import PairTraining, Recipe, Training, seeds_of, training_of
from relstab.scale_detection.design import EnsembleRecipe, Scaling, SimpleDesign
from relstab.scale_detection.homogeneous import HOMOGENEOUS
from relstab.scale_detection.tasks import Norm, Rule, ScaleTask, check_split

__all__ = ["PairImages", "ScaleDetection", "SimpleExperiment"]


class SimpleExperiment(Section):
    """One kind of simple CNN on one scale-detection task on a ring; as many networks as seeds for each activation."""

    rule: Rule = Field(
        "distance",
        description="distance: Task 1, the two sites are nearer than the scale or farther; block: Task 2, they are in the same "
        "block or not.",
    )
    size: int = Field(64, description="L, sites of the ring.")
    scale: int = Field(16, description="xi, in sites: at most half the ring, and for blocks a divisor of it.")
    gap: float = Field(0.0, description="Pairs at distances from scale - gap to scale + gap are left out; 0 for blocks.")
    pairs: int = Field(512, description="P, training pairs, half of them of each label; all others are for the test.")
    depth: int = Field(8, description="K, convolutional layers.")
    filter_size: AtLeastTwo = Field(5, description="F, sites of a filter.")
    stride: int = Field(1, description="s, sites between windows, at most filter_size.")
    channels: int = Field(32, description="H, channels of every layer.")
    scaling: Scaling = Field("mean_field", description="Factor of the read-out: mean_field, 1 / H, or ntk, 1 / sqrt(H).")
    activations: Annotated[list[ActivationName], Field(min_length=1), AfterValidator(distinct)] = Field(
        ["relu"], description="relu, tanh, gelu, abs: one set of networks for each."
    )
    seeds: Count = Field(6, description="Networks, which are trained at once.")
    learning_rate: float = Field(0.01, description="Learning rate of gradient descent, times H in the mean-field scaling.")
    batch_size: int = Field(8, description="Pairs per step.")
    epochs: int = Field(60, description="Passes over the pairs, at most: training ends when its loss is zero.")
    decay_epochs: int = Field(
        0,
        description="Passes with weight decay after that. They remove what is left of the random initial weights, which hides the "
        "pooling; 0: none.",
    )
    decay_activations: list[ActivationName] = Field(
        ["relu"],
        description="Activations whose networks get these passes: the theory is about ReLU, and tanh networks can lose the task.",
    )
    weight_decay: float = Field(
        0.05, description="Share of the weights that a step of these passes takes off, in units of the learning rate."
    )

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
        return recipe

    def check(self) -> None:
        """Raise the error of the task, the network or its training that cannot be."""
        task = ScaleTask(**self.task())
        SimpleDesign(**arguments_of(SimpleDesign, self)).sizes(task.size)
        EnsembleRecipe(**arguments_of(EnsembleRecipe, self))
        check_split(task.counts, self.pairs)


class PairImages(Section):
    """Deep networks on images with two lit pixels."""

    rule: Rule = Field(
        "distance", description="distance, or block: the same block or not (the quadrants, where scale is half the size)."
    )
    size: int = Field(28, description="n, rows and columns.")
    scale: int = Field(14, description="xi, in pixels: at most half the image.")
    gap: float = Field(2.0, description="Pairs at distances from scale - gap/2 to scale + gap/2 are left out; 0 for blocks.")
    norm: Norm = Field("L2", description="Norm of the displacement between the pixels: L2 or Linf.")
    periodic: bool = Field(False, description="Whether distances go round the edges.")
    train_pairs: int = Field(1024, description="P, training pairs, half of them of each label.")
    test_pairs: int = Field(2000, description="Test pairs, half of them of each label.")
    architectures: Annotated[list[str], AfterValidator(distinct)] = Field(
        ["lenet", "vgg11", "vgg11_bn", "resnet18"], description="Networks to train, of those above; []: none."
    )
    seeds: Count = Field(2, description="Networks of each architecture.")
    training: PairTraining = Field(default_factory=PairTraining)
    recipes: dict[str, Recipe] = Field(
        {
            "lenet": {"epochs": 20},
            "vgg11": {"width": 0.25, "learning_rate": 0.01},
            "vgg11_bn": {"width": 0.25},
            "resnet18": {"width": 0.125},
        },
        validate_default=True,
        description="As recipes above.",
    )

    def task(self) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.tasks.ScaleTask`."""
        return {**arguments_of(ScaleTask, self), "dimension": 2}

    def training_of(self, architecture: str) -> Training:
        """How one architecture is trained, see :func:`relstab.config.training.training_of`."""
        return training_of(architecture, self.training, self.recipes)

    def seeds_of(self, architecture: str) -> list[int]:
        """Seeds of the networks of one architecture, from 0."""
        return seeds_of(architecture, self.seeds, self.recipes)

    def check(self) -> None:
        """Raise the error of the task or its split that cannot be, or of a training run that cannot be measured."""
        check_split(ScaleTask(**self.task()).counts, self.train_pairs, self.test_pairs)
        for name in self.architectures:
            if snapshots := self.training_of(name).snapshots:
                raise ValueError(
                    f"expected 0 snapshots of {name}, as pair networks are not measured over training, got {snapshots}"
                )


class ScaleDetection(Section):
    """Tasks that a network solves by spatial pooling alone, for which the sensitivities of its layers can be predicted: images with two
    lit sites, told apart by the distance between them. They need no data set.
    """

    enabled: bool = Field(True, description="Whether to run them.")
    simple: dict[Name, SimpleExperiment | None] = Field(
        {
            "task1_stride1": {
                "rule": "distance", "size": 64, "scale": 16, "gap": 2, "pairs": 512, "depth": 8, "filter_size": 5, "stride": 1,
                "channels": 32, "scaling": "mean_field", "activations": ["relu"], "seeds": 6, "learning_rate": 0.01,
                "batch_size": 8, "epochs": 60, "decay_epochs": 80, "decay_activations": ["relu"], "weight_decay": 0.1,
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
        },
        validate_default=True,
        description="Simple CNNs on a ring, by a name of your choice (null instead of a section leaves one out): filters, strides and an "
        "average. Without strides, Task 2 cannot be learned: such a network sees the distance between two sites, not where blocks are.",
    )  # fmt: skip
    probes: AtLeastTwo = Field(500, description="P, test pairs that are perturbed; all of them, where a ring has fewer.")
    images: PairImages = Field(default_factory=PairImages)

    @model_validator(mode="after")
    def _agree(self) -> "ScaleDetection":
        wrong = {}
        checks: dict[str, SimpleExperiment | PairImages] = {f"simple.{name}": entry for name, entry in self.experiments.items()}
        for key, section in (checks | ({"images": self.images} if self.architectures else {})).items():
            try:
                section.check()
            except ValueError as error:
                wrong[key] = str(error)
        for name in HOMOGENEOUS.keys() & self.simple:
            wrong[f"simple.{name}"] = f"expected a name that no network of homogeneous filters has in the tables, got {name!r}"
        if self.architectures and self.probes > self.images.test_pairs:
            wrong["probes"] = f"expected at most scale_detection.images.test_pairs, {self.images.test_pairs}, got {self.probes}"
        WrongKeys.raise_if(wrong)
        return self

    @property
    def experiments(self) -> dict[str, SimpleExperiment]:
        """The experiments to run, by name."""
        return {name: experiment for name, experiment in self.simple.items() if experiment is not None and self.enabled}

    @property
    def architectures(self) -> list[str]:
        """The deep networks to train."""
        return self.images.architectures if self.enabled else []
