"""The configuration as typed, described models, checked as a whole before any job starts.

One sentence for each wrong key says what was given, what is allowed, and the nearest valid name. ``python -m relstab.config``
prints the JSON schema that editors use.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from relstab.architectures import ARCHITECTURES, ActivationName, PoolingName, own_architectures
from relstab.architectures.user_code import check_reference
from relstab.data.datasets import DATASETS, IMAGE_FOLDER
from relstab.data.image_shape import Fit, Shape
from relstab.files.network import IMAGENET
from relstab.nearest import nearest
from relstab.scale_detection.design import PAIRS, EnsembleRecipe, SimpleDesign
from relstab.scale_detection.homogeneous import HOMOGENEOUS
from relstab.scale_detection.tasks import ScaleTask, check_split

__all__ = ["Config", "ConfigError", "IMAGENET", "Recipe", "Training", "json_schema", "load_config"]


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _known_architectures(names: list[str]) -> list[str]:
    for name in names:
        _known_name(name, ARCHITECTURES)
    return _distinct(names)


def _known_recipes(recipes: dict[str, Any]) -> dict[str, Any]:
    for name in recipes:
        _known_name(name, ARCHITECTURES)
    return recipes


class ConfigError(ValueError):
    """A configuration that cannot be run; the message is one sentence for each wrong key."""


class _Section(BaseModel):
    # Strict: a string is no number. Whole numbers pass for fractional ones.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _existing_code(reference: str) -> str:
    try:
        check_reference(reference)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    return reference


class ImageFolder(_Section):
    """How a folder of images becomes a data set: root/train/CLASS/* and root/test/CLASS/*."""

    channels: Literal[1, 3] = Field(3, description="1: grey; 3: colour.")
    size: Count | None = Field(
        None, description="n, rows and columns of the images; null: those of the first image, if it is square."
    )
    fit: Fit = Field(
        "exact",
        description="exact: all images must have this size; crop: the shorter side is resized and the centre cut out; stretch.",
    )
    resize_to: Count | None = Field(None, description="Pixels of the shorter side before the centre is cut out; null: size.")
    problems: Literal["stop", "skip"] = Field(
        "stop",
        description="When files or classes cannot be used, which are listed in the log: stop, or skip them and go on.",
    )

    @model_validator(mode="after")
    def _agree(self) -> "ImageFolder":
        if self.fit != "exact" and self.size is None:
            raise ValueError(
                f"data.imagefolder.fit is {self.fit!r} and data.imagefolder.size is null: a number of pixels is wanted"
            )
        try:
            # Without a size it is that of the first image, of at least one pixel.
            Shape(self.channels, self.size or 1, self.fit, self.resize_to)
        except ValueError as error:
            raise ValueError(f"data.imagefolder.{error}") from None
        return self


Reference = Annotated[str, AfterValidator(_existing_code)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Channels = Annotated[list[Share], Field(min_length=1, max_length=3)]


class Data(_Section):
    """Which images."""

    name: str = Field(
        "mnist5k", description="Data set: " + ", ".join([*DATASETS, IMAGE_FOLDER]) + ", or a name of your own beside function."
    )
    function: Reference | None = Field(
        None, description="path/to/file.py:function that makes a data set of your own out of root and seed; null: none."
    )
    root: str | None = Field(
        None,
        description="Folder where the files of the data set are, or are downloaded to; null: the system's, or data/.",
    )
    imagefolder: ImageFolder = Field(default_factory=ImageFolder, description="How a folder of images becomes a data set.")
    mean: Channels | None = Field(
        None, description="By channel, of pixels from 0 to 1, for the normalisation; null: that of the training images."
    )
    std: Channels | None = Field(
        None, description="Standard deviation by channel, for the normalisation; null: that of the training images."
    )
    train_images: Count | None = Field(None, description="Training images to keep, the same number a class; null: all.")
    test_images: Count | None = Field(None, description="Test images to keep, the same number a class; null: all.")

    noisy_test: bool = Field(
        True, description="Whether test images have the noise of the training images, for the error and for the probes."
    )

    @model_validator(mode="after")
    def _known(self) -> "Data":
        known = [*DATASETS, IMAGE_FOLDER]
        if self.function is None:
            _known_name(self.name, known, "data.name: ")
        elif self.name in (*known, PAIRS, IMAGENET) or not re.fullmatch(r"\w+", self.name):
            raise ValueError(
                f"data.name is {self.name!r}, and data.function is given: a name of your own, of letters, digits and _, is "
                f"wanted beside it, none of {', '.join(known)}, {PAIRS}, {IMAGENET}"
            )
        if self.name == IMAGE_FOLDER and self.root is None:
            raise ValueError("data.name is 'imagefolder' and data.root is null: the folder that holds train/ and test/ is wanted")
        if min(self.std or [1]) <= 0:
            raise ValueError(f"data.std is {self.std}: positive numbers are wanted")
        if len(self.mean or self.std or []) != len(self.std or self.mean or []):
            raise ValueError(f"data.mean is {self.mean} and data.std is {self.std}: as many of one as of the other are wanted")
        return self


class OwnArchitecture(_Section):
    """An architecture of one's own."""

    builder: Reference = Field(
        ...,
        description="path/to/file.py:function of the shape of the images and the number of classes; it returns a torch module.",
    )
    label: str | None = Field(None, description="Its name in figures; null: that of the section.")
    convolutional: bool = Field(True, description="Whether it has convolutions, to shuffle and analyse.")
    skips: bool = Field(False, description="Whether it has skip connections: which of figures 12 and 13 it belongs to.")


def _make_known(entries: dict[str, OwnArchitecture]) -> dict[str, OwnArchitecture]:
    own_architectures({name: entry.model_dump() for name, entry in entries.items()})
    return entries


class Training(_Section):
    """How a network is trained.

    What an architecture needs to learn (``relstab.ARCHITECTURES``: ``recipe``) wins over this, and ``recipes`` wins over both.
    """

    epochs: Count = Field(250, description="Passes over the training images.")
    batch_size: Count = Field(128, description="Images a step.")
    loss: Literal["cross_entropy", "hinge"] = Field(
        "cross_entropy", description="cross_entropy, or hinge: one output, whose sign is the class, for two classes."
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd (with momentum) or adam.")
    learning_rate: Positive = Field(0.1, description="Rate at the start of the schedule.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of sgd; adam does not use it.")
    weight_decay: NotNegative = Field(5e-4, description="L2 penalty on parameters with more than one dimension.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="cosine: the rate falls to 0; constant.")
    schedule_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="Share of the epochs over which the cosine falls to 0; it stays there for the rest."
    )
    warmup_epochs: NotNegative = Field(
        0, description="Epochs over which the rate rises linearly from 0 first; at most half of those of the schedule."
    )
    initialization: Literal["default", "he"] = Field(
        "default", description="default: torch's own; he: normal weights of variance 2 / fan-in, biases 0."
    )
    width: Positive = Field(1.0, description="Multiplier of the number of channels or hidden units of every layer.")
    activation: ActivationName | None = Field(
        None, description="relu, tanh, gelu or abs in all layers; null: the architecture's own."
    )
    pooling: PoolingName | None = Field(
        None, description="max, average, or none for convolutions of stride 2 instead; null: the architecture's own."
    )
    crop_padding: Annotated[int, Field(ge=0)] = Field(4, description="Pixels of zero padding for random crops; 0: no crops.")
    flip: bool = Field(True, description="Whether to flip images horizontally at random.")
    diffeo_displacement: NotNegative = Field(
        0.0, description="Typical displacement, in pixels, of a random diffeomorphism of each image; 0: none."
    )
    diffeo_cutoff: Annotated[int, Field(ge=2)] = Field(3, description="Largest mode number of these diffeomorphisms.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of products and convolutions in training: float32, bfloat16, or auto: bfloat16 where the device computes "
        "in it (NVIDIA GPUs from Ampere on, CPUs with AMX). Weights, errors and sensitivities are float32 in any case.",
    )
    compile: bool = Field(False, description="Whether torch.compile compiles the network first: for long trainings.")
    snapshots: Annotated[int, Field(ge=0)] = Field(
        0, description="Log-spaced epochs at which weights are kept, to measure D, G and R over training; 0: none."
    )


class _RecipeBase(_Section):
    seeds: Count | None = Field(
        None, description="Networks of this architecture at each noise level; null: as many as the others."
    )


def _optional(field: FieldInfo) -> tuple[Any, Any]:
    """The same key with the same bounds, that may be left out."""
    bounded: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    meaning = str(field.description).replace("; null: the architecture's own", "")
    return (bounded | None, Field(None, description=f"{meaning} Left out or null: as in training."))


Recipe: type[_RecipeBase] = create_model(
    "Recipe",
    __base__=_RecipeBase,
    __doc__="What one architecture does otherwise than training says.",
    **{name: _optional(field) for name, field in Training.model_fields.items()},
)  # type: ignore[call-overload]  # the keys are fields, not options


class Probing(_Section):
    """The perturbed images on which sensitivities are measured."""

    images: Annotated[int, Field(ge=2)] = Field(500, description="P, test images that are perturbed.")
    displacement: Positive = Field(1.0, description="delta, typical displacement of the diffeomorphisms, in pixels.")
    cutoff: Annotated[int, Field(ge=2)] = Field(3, description="c, largest mode number of the displacement field.")
    interpolation: Literal["bilinear", "nearest", "gaussian"] = Field(
        "bilinear", description="How warped images are interpolated: bilinear, nearest or gaussian."
    )


class Sensitivity(_Section):
    """D, G and R of every layer."""

    weights: Literal["last", "best"] = Field(
        "last", description="Trained weights: those of the last epoch, or of the epoch of best test error."
    )
    batch_size: Count | None = Field(
        None,
        description="Images that go through the network at a time, each in three versions. Left out or null: as many as keep the "
        "activations of the widest layer below 12 MiB on a CPU, 256 MiB on a GPU.",
    )
    keep_activations: list[str] = Field(
        [],
        description="Layers whose representations are kept beside D, G and R, as shell patterns of their names: ['*'] all, "
        "[output], ['features.*']. They take much disk.",
    )


class ChannelShuffle(_Section):
    """R with the channels between convolutions shuffled."""

    count: Count = Field(5, description="Shuffles of each network.")
    which: Literal["input", "both"] = Field(
        "input", description="Channels to permute: those read (input), or also those written (both)."
    )
    noise: list[NotNegative] | None = Field(
        None,
        description="Noise levels whose networks are shuffled, out of the top-level noise; null: the lowest; []: no shuffles.",
    )


class SimpleExperiment(_Section):
    """One kind of simple CNN on one scale-detection task on a ring; as many networks as seeds, for each activation."""

    rule: Literal["distance", "block"] = Field(
        "distance", description="distance: Task 1, nearer than the scale or farther; block: Task 2, in the same block or not."
    )
    size: Annotated[int, Field(ge=2)] = Field(128, description="L, sites of the ring.")
    scale: Count = Field(32, description="xi, in sites: at most half the ring.")
    gap: NotNegative = Field(0.0, description="Pairs at distances from scale - gap to scale + gap are left out; 0 for blocks.")
    pairs: Annotated[int, Field(ge=2)] = Field(1024, description="P, training pairs, half of them of each label.")
    depth: Count = Field(7, description="K, convolutional layers.")
    filter_size: Annotated[int, Field(ge=2)] = Field(2, description="F, sites of a filter.")
    stride: Count = Field(2, description="s, sites between windows, at most filter_size.")
    channels: Count = Field(1000, description="H, channels of every layer.")
    scaling: Literal["mean_field", "ntk"] = Field("mean_field", description="Of the read-out: 1 / H or 1 / sqrt(H).")
    activations: Annotated[list[ActivationName], Field(min_length=1)] = Field(
        ["relu"], description="relu, tanh, gelu or abs: one set of networks for each."
    )
    seeds: Count = Field(10, description="Networks, which are trained at once.")
    learning_rate: Positive = Field(0.01, description="Rate of gradient descent, times H in the mean-field scaling.")
    batch_size: Count = Field(8, description="Pairs a step.")
    epochs: Count = Field(200, description="Passes over the pairs, at most: training ends when its loss is zero.")
    decay_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="Passes with weight decay after that, which take away what is left of the random initial weights; 0: none."
    )
    decay_activations: list[ActivationName] = Field(
        ["relu"],
        description="The activations whose networks get these: the theory is about ReLU, and tanh networks can lose the task.",
    )
    weight_decay: NotNegative = Field(
        0.05, description="Share of the weights that a step takes off in these, in units of the learning rate."
    )

    def task(self) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.tasks.ScaleTask`."""
        return {"rule": self.rule, "size": self.size, "scale": self.scale, "gap": self.gap}

    def design(self, activation: str) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.simple_cnn.SimpleDesign`."""
        names = ("depth", "filter_size", "stride", "channels", "scaling")
        return {**{name: getattr(self, name) for name in names}, "activation": activation}

    def recipe(self, activation: str) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.ensemble_training.EnsembleRecipe`."""
        recipe = {name: getattr(self, name) for name in ("learning_rate", "batch_size", "epochs")}
        if not self.decay_epochs or activation not in self.decay_activations:
            return recipe
        return {**recipe, "decay_epochs": self.decay_epochs, "weight_decay": self.weight_decay}


class PairImages(_Section):
    """Deep networks on the scale-detection task on images."""

    rule: Literal["distance", "block"] = Field(
        "distance", description="distance: nearer than the scale or farther; block: in the same block or not, the quadrants."
    )
    size: Annotated[int, Field(ge=2)] = Field(28, description="n, rows and columns.")
    scale: Count = Field(14, description="xi, in pixels: at most half the image.")
    gap: NotNegative = Field(
        2.0, description="Pairs at distances from scale - gap/2 to scale + gap/2 are left out; 0 for blocks."
    )
    norm: Literal["L2", "Linf"] = Field("L2", description="Of the displacement: L2 or Linf.")
    periodic: bool = Field(False, description="Whether distances go round the edges.")
    train_pairs: Annotated[int, Field(ge=2)] = Field(1024, description="P, half of them of each label.")
    test_pairs: Annotated[int, Field(ge=2)] = Field(2000, description="Half of them of each label.")
    architectures: Annotated[list[str], AfterValidator(_known_architectures)] = Field(
        [], description="Networks to train, as in the top-level architectures; []: none."
    )
    seeds: Count = Field(2, description="Networks of each architecture.")
    training: Training = Field(
        default_factory=lambda: Training(loss="hinge", crop_padding=0, flip=False, learning_rate=0.05, epochs=300),
        description="How they are trained, as in the top-level training.",
    )
    recipes: Annotated[dict[str, Recipe], AfterValidator(_known_recipes)] = Field(
        default_factory=dict, description="By architecture: what it does otherwise than this training says."
    )

    def task(self) -> dict[str, Any]:
        """Arguments of :class:`relstab.scale_detection.tasks.ScaleTask`."""
        names = ("rule", "size", "scale", "gap", "norm", "periodic")
        return {**{name: getattr(self, name) for name in names}, "dimension": 2}

    def training_of(self, architecture: str) -> Training:
        """Recipe of one architecture, put together as that of the top level."""
        return _training_of(architecture, self.training, self.recipes)

    def seeds_of(self, architecture: str) -> list[int]:
        """Seeds of the networks of one architecture, from 0."""
        return list(range(self.recipes.get(architecture, Recipe()).seeds or self.seeds))


class ScaleDetection(_Section):
    """The scale-detection tasks: two lit sites, told apart by how far they are from each other."""

    enabled: bool = Field(True, description="Whether to run them.")
    simple: dict[str, SimpleExperiment | None] = Field(
        default_factory=dict,
        description="Simple CNNs on a ring, by a name of your choice; null instead of a section leaves one out.",
    )
    probes: Annotated[int, Field(ge=2)] = Field(500, description="P, test pairs on which sensitivities are measured.")
    images: PairImages = Field(default_factory=PairImages, description="Deep networks on images with two lit pixels.")

    @field_validator("simple")
    @classmethod
    def _names(cls, simple: dict[str, Any]) -> dict[str, Any]:
        for name in simple:
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"{name!r} is no name of an experiment: letters, digits and underscores are wanted")
            if name in HOMOGENEOUS:
                raise ValueError(f"{name!r} is the name of a network of homogeneous filters in the tables: another one is wanted")
        return simple

    @property
    def experiments(self) -> dict[str, SimpleExperiment]:
        """The experiments to run, by name."""
        return {name: experiment for name, experiment in self.simple.items() if experiment is not None and self.enabled}

    @property
    def architectures(self) -> list[str]:
        """The deep networks to train."""
        return self.images.architectures if self.enabled else []


class ImageNet(_Section):
    """Torchvision's pretrained networks: their filters and, on a folder of images, their sensitivities."""

    networks: list[str] = Field(
        [], description="Names of torchvision's classification networks, such as vgg11_bn and resnet18; []: none."
    )
    weights: dict[str, str] = Field(
        default_factory=dict,
        description="By network: a local file of its weights, a state dict (.pth); of the others, torchvision's default ones are "
        "downloaded into the folder of torch's hub.",
    )
    images: str | None = Field(
        None, description="Folder of validation images, in folders by class or not, to measure on; null: filters only."
    )
    probes: Annotated[int, Field(ge=2)] = Field(100, description="P, images that are perturbed.")
    resize: Count = Field(256, description="Pixels of the shorter side, to which an image is resized first.")
    crop: Count = Field(224, description="Pixels of the square that is cut from its centre, at most resize.")

    @field_validator("networks")
    @classmethod
    def _names(cls, networks: list[str]) -> list[str]:
        for name in networks:
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"{name!r} is no name of a network of torchvision: letters, digits and underscores are wanted")
        return _distinct(networks)

    @model_validator(mode="after")
    def _agree(self) -> "ImageNet":
        for name, file in self.weights.items():
            if name not in self.networks:
                wanted = f"one of {', '.join(self.networks)}" if self.networks else "the name of a network that stands there"
                raise ValueError(f"weights are given for {name!r}, which is not among networks: {wanted} is wanted")
            if not file or "{" in file or "}" in file:
                raise ValueError(
                    f"weights of {name} are {file!r}: a file without braces in its name, which name wildcards, is wanted"
                )
        if self.crop > self.resize:
            raise ValueError(f"crop is {self.crop} and resize is {self.resize}: no more than resize is wanted")
        return self


class Correlation(_Section):
    """Correlation of test error and sensitivities over networks."""

    learned_below: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9,
        description="A network has learned when its test error is below this share of the error of guessing the largest class.",
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="Of the intervals, in tables and figures.")
    resamples: Annotated[int, Field(ge=100)] = Field(2000, description="Bootstrap samples of the intervals.")


class Figures(_Section):
    """How figures look."""

    dpi: Annotated[int, Field(ge=50, le=1200)] = Field(200, description="Dots an inch of the PNG files.")
    font_size: Annotated[float, Field(ge=4, le=30)] = Field(8, description="Size of the text, in points.")
    example: Annotated[int, Field(ge=0)] = Field(0, description="Which of the probes is shown as the sample image, from 0.")


class Config(_Section):
    """Everything that a run depends on."""

    results: str = Field("results", description="Folder for all that the run makes.", min_length=1)
    seed: Annotated[int, Field(ge=0)] = Field(0, description="From which all random numbers of the run follow.")
    device: str = Field("auto", description="Where networks run: auto (cuda where there is one), cpu, cuda, cuda:1.")
    jobs_per_gpu: Count = Field(1, description="Jobs that share a GPU: more than one where a network alone cannot fill it.")
    threads: Count = Field(1, description="CPU threads of a job that runs a network; another number trains other networks.")
    checkpoint_minutes: Positive = Field(3, description="Minutes between the checkpoints of a training.")
    data: Data = Field(default_factory=Data, description="Which images.")
    # Before all that names architectures: making them known is part of checking them.
    own_architectures: Annotated[dict[str, OwnArchitecture], AfterValidator(_make_known)] = Field(
        default_factory=dict, validate_default=True, description="Architectures of your own, by the names that you give them."
    )
    architectures: Annotated[list[str], Field(min_length=1), AfterValidator(_known_architectures)] = Field(
        ..., description="Networks to train: " + ", ".join(ARCHITECTURES) + "."
    )
    noise: Annotated[list[NotNegative], Field(min_length=1)] = Field(
        [0.0], description="Norms sigma of the Gaussian noise on the data set's images, after normalisation."
    )
    seeds: Count = Field(4, description="Networks of each architecture at each noise level.")
    training: Training = Field(default_factory=Training, description="How networks are trained.")
    recipes: Annotated[dict[str, Recipe], AfterValidator(_known_recipes)] = Field(
        default_factory=dict, description="By architecture: what it does otherwise than training says."
    )
    probes: Probing = Field(default_factory=Probing, description="Perturbed images to measure on.")
    sensitivity: Sensitivity = Field(default_factory=Sensitivity, description="D, G and R of every layer.")
    channel_shuffle: ChannelShuffle = Field(default_factory=ChannelShuffle, description="R with shuffled channels.")
    scale_detection: ScaleDetection = Field(
        default_factory=ScaleDetection, description="The scale-detection tasks and their theory."
    )
    imagenet: ImageNet = Field(default_factory=ImageNet, description="Torchvision's pretrained networks.")
    correlation: Correlation = Field(default_factory=Correlation, description="Correlations over networks.")
    figures: Figures = Field(default_factory=Figures, description="How figures look.")

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError("'auto', 'cpu', 'cuda' or 'cuda:N' is wanted")
        return device

    @field_validator("noise")
    @classmethod
    def _noise(cls, noise: list[float]) -> list[float]:
        return _distinct(noise)

    @field_validator("results")
    @classmethod
    def _results(cls, results: str) -> str:
        if "{" in results or "}" in results:
            raise ValueError("a folder without braces, which name wildcards, is wanted")
        return results

    @model_validator(mode="after")
    def _sections_agree(self) -> "Config":
        missing = [noise for noise in self.shuffled_noise if noise not in self.noise]
        if missing:
            raise ValueError(
                f"channel_shuffle.noise holds {missing[0]:g}, which is not among the noise levels that are trained: "
                f"some of noise = {self.noise} is wanted"
            )
        _distinct(self.shuffled_noise, "channel_shuffle.noise: ")
        self._check_pooling(self, self.architectures, "")
        self._check_pooling(self.scale_detection.images, self.scale_detection.architectures, "scale_detection.images.")
        if self.figures.example >= self.probes.images:
            raise ValueError(
                f"figures.example is {self.figures.example} and probes.images is {self.probes.images}: "
                f"one of the probes, counted from 0, is wanted"
            )
        self._check_scale_detection()
        if self.data.test_images is not None and self.probes.images > self.data.test_images:
            raise ValueError(
                f"probes.images is {self.probes.images} and data.test_images is {self.data.test_images}: "
                f"no more probes than test images are wanted"
            )
        return self

    @staticmethod
    def _check_pooling(section: "Config | PairImages", architectures: list[str], prefix: str) -> None:
        for name in architectures:
            pooling = section.training_of(name).pooling
            if pooling not in (None, "none") and ARCHITECTURES[name].pooling == "none":
                raise ValueError(
                    f"pooling of {name} is {pooling!r} ({prefix}training.pooling or {prefix}recipes.{name}.pooling), and it has "
                    f"no pooling to replace: 'none' is wanted under {prefix}recipes.{name}"
                )

    def _check_scale_detection(self) -> None:
        """What the tasks, networks and recipes of scale detection cannot be, with the section that says so."""
        for name, experiment in self.scale_detection.experiments.items():
            try:
                task = ScaleTask(**experiment.task())
                for activation in experiment.activations:
                    SimpleDesign(**experiment.design(activation)).sizes(task.size)
                    EnsembleRecipe(**experiment.recipe(activation))
                _distinct(experiment.activations, "activations: ")
                check_split(task.counts, experiment.pairs)
            except ValueError as error:
                raise ValueError(f"scale_detection.simple.{name}: {error}") from None
        if not self.scale_detection.architectures:
            return
        images = self.scale_detection.images
        try:
            check_split(ScaleTask(**images.task()).counts, images.train_pairs, images.test_pairs)
        except ValueError as error:
            raise ValueError(f"scale_detection.images: {error}") from None
        for name in images.architectures:
            if images.training_of(name).snapshots:
                raise ValueError(
                    f"scale_detection.images: snapshots of {name} are {images.training_of(name).snapshots}, and these networks "
                    f"are not measured over training: 0 is wanted"
                )
        if self.scale_detection.probes > images.test_pairs:
            raise ValueError(
                f"scale_detection.probes is {self.scale_detection.probes} and scale_detection.images.test_pairs is "
                f"{images.test_pairs}: no more probes than test pairs are wanted"
            )

    @property
    def shuffled_noise(self) -> list[float]:
        """Noise levels whose networks are measured with shuffled channels."""
        return [min(self.noise)] if self.channel_shuffle.noise is None else self.channel_shuffle.noise

    def training_of(self, architecture: str) -> Training:
        """Recipe of one architecture: ``training``, with what it needs to learn, with what ``recipes`` says otherwise."""
        return _training_of(architecture, self.training, self.recipes)

    def seeds_of(self, architecture: str) -> list[int]:
        """Seeds of the networks of one architecture, from 0."""
        return list(range(self.recipes.get(architecture, Recipe()).seeds or self.seeds))


def _training_of(architecture: str, training: Training, recipes: Mapping[str, Any]) -> Training:
    asked = recipes.get(architecture, Recipe()).model_dump(exclude_none=True, exclude={"seeds"})
    needed = dict(ARCHITECTURES[architecture].recipe)
    optimizer = (training.model_dump() | needed | asked)["optimizer"]
    if optimizer != needed.get("optimizer", "sgd"):
        needed.pop("learning_rate", None)  # a rate holds for its optimizer
    return training.model_copy(update=needed | asked)


def _known_name(name: str, allowed: Iterable[str], key: str = "") -> str:
    if name not in allowed:
        raise ValueError(f"{key}{name!r} is unknown; one of {', '.join(allowed)} is wanted{nearest(name, allowed)}")
    return name


def _distinct(values: list[Any], key: str = "") -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{key}{value!r} stands there more than once; distinct values are wanted")
    return values


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Model of the section that holds the key at ``location``."""
    section: type[BaseModel] = Config
    steps = list(location[:-1])
    while steps:
        step = steps.pop(0)
        if section in (Config, PairImages) and step == "recipes" and steps:
            steps.pop(0)
            section = Recipe
            continue
        if section is ScaleDetection and step == "simple" and steps:
            steps.pop(0)
            section = SimpleExperiment
            continue
        if section is Config and step == "own_architectures" and steps:
            steps.pop(0)
            section = OwnArchitecture
            continue
        annotation = section.model_fields[str(step)].annotation if step in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        section = annotation
    return section


def _shown(value: Any) -> str:
    text = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _sentence(error: Mapping[str, Any]) -> str:
    """One sentence for one of pydantic's errors."""
    location: tuple[int | str, ...] = error["loc"]
    key = ".".join(str(part) for part in location) or "the configuration"
    key = re.sub(r"\.(\d+)$", r"[\1]", key)
    given, context = error["input"], error.get("ctx", {})
    kind = error["type"]
    if kind == "extra_forbidden":
        section = _section_at(location)
        names = list(section.model_fields) if section else []
        return f"{key}: there is no such key; one of {', '.join(names)} is wanted{nearest(str(location[-1]), names)}."
    if kind == "missing":
        return f"{key}: the key is missing and has no default."
    if kind == "value_error":
        cause = str(context["error"])
        if not location or cause.startswith(f"{key}."):  # checks across keys name these themselves
            return f"{cause}."
        return (
            f"{key}: {cause}."
            if repr(given) in cause or isinstance(given, list | dict)
            else f"{key}: {_shown(given)} is given; {cause}."
        )
    if kind == "literal_error":
        allowed = context["expected"]
        hint = nearest(str(given), re.findall(r"'([^']+)'", allowed))
        return f"{key}: {_shown(given)} is given; {allowed} is wanted{hint}."
    wanted = {
        "float_type": "a number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "bool_type": "true or false",
        "string_type": "a text",
        "string_too_short": "a text that is not empty",
        "list_type": "a list",
        "dict_type": "a section of keys with values",
        "model_type": "a section of keys with values",
        "model_attributes_type": "a section of keys with values",
        "too_short": "a list with at least one entry",
        "finite_number": "a finite number",
        "greater_than": f"a number above {context.get('gt')}",
        "greater_than_equal": f"a number of at least {context.get('ge')}",
        "less_than": f"a number below {context.get('lt')}",
        "less_than_equal": f"a number of at most {context.get('le')}",
    }.get(kind, str(error["msg"]))
    hint = ""
    if kind in ("float_type", "int_type") and isinstance(given, str):
        with_number = re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", given.strip(), re.IGNORECASE)
        hint = " (YAML reads this as a text: write 5.0e-4, with a point and a sign)" if with_number else ""
    return f"{key}: {_shown(given)} is given; {wanted} is wanted{hint}."


def load_config(raw: Mapping[str, Any], source: str = "config.yaml") -> Config:
    """Checked configuration from what YAML gave.

    Args:
        raw: nested dicts, lists and values.
        source: the file that is named in messages.

    Raises:
        ConfigError: one sentence for each wrong key.
    """
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {_sentence(dict(part))}" for part in error.errors())) from None


def json_schema() -> str:
    """JSON schema of the configuration, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
