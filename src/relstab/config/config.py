"""The whole config: the keys of a run, the sections, and what they must agree on."""

import importlib.util
from typing import Annotated, Literal

from pydantic import Field, model_validator

from relstab.architectures import ARCHITECTURES
from relstab.config.architectures import OwnArchitectures
from relstab.config.correlation import Correlation
from relstab.config.data import Data
from relstab.config.figures import Figures
from relstab.config.imagenet import ImageNet
from relstab.config.probes import Probing
from relstab.config.scale_detection import PairImages, ScaleDetection
from relstab.config.section import Count, Distinct, NoBraces, NoiseLevel, Positive, Seeds, key, one_of, refuse
from relstab.config.sensitivity import ChannelShuffle, Sensitivity
from relstab.config.training import Recipe, TrainedNetworks, Training, own_recipes


class Config(TrainedNetworks):
    """Everything that a run depends on, at the scale of a laptop."""

    results: NoBraces = key("results", "Folder for all that the run makes.")
    seed: Annotated[int, Field(ge=0, le=2**53)] = key(
        0,
        "Seed of the run, from which all random numbers follow (with the stage, data set, architecture, noise and seed of "
        "each job).",
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = key(
        "auto",
        "Where networks run: auto (cuda where there is a GPU), cpu, cuda, or one device, cuda:1. With several GPUs, jobs "
        "that run at the same time take different ones. A change of this key or of the next four makes no result again.",
    )
    jobs_per_gpu: Count = key(1, "Jobs that share a GPU: more than one where a network alone cannot fill it.")
    networks_per_job: Count = key(
        1,
        "On a GPU, networks of one architecture, lenet or fc*, that one job trains at the same time, in one process: these "
        "networks leave most of a GPU idle. Each gets the weights that it gets alone, bit for bit.",
    )
    threads: Count = key(
        1,
        "CPU threads of a job that runs a network. Two jobs of one thread each are faster than two jobs of two threads "
        "after one another; more threads pay off where there are fewer networks than cores. Another number trains networks that "
        "differ as much as those of another seed.",
    )
    checkpoint_minutes: Positive = key(
        3,
        "Minutes between the checkpoints of a training run. A run that was killed continues from its last checkpoint. A "
        "SIGTERM or Ctrl-C saves one first.",
    )
    training_log: Literal["tensorboard"] | None = key(
        None,
        "tensorboard: loss, test error and learning rate of each epoch go to an event file beside the log of the training run, "
        "while it runs; null: to its log alone.",
    )
    data: Data = Field(default_factory=Data)
    own_architectures: OwnArchitectures = key({}, "User architectures, by a name of your choice; see configs/own.yaml.")
    architectures: Annotated[Distinct[str], Field(min_length=1)] = key(
        ["fc2", "lenet", "alexnet", "vgg11", "vgg11_bn", "resnet18"],
        f"Networks to train, of yours and {', '.join(ARCHITECTURES)}.",
    )
    noise: Annotated[Distinct[NoiseLevel], Field(min_length=1)] = key(
        [0, 30],
        "Norms sigma of the Gaussian noise on training and test images, after normalisation. An image of mnist5k has "
        "norm 28, and the noise of its probes about 9.",
    )
    seeds: Seeds = key(2, "Networks of each architecture at each noise level.")
    training: Training = Field(default_factory=Training)
    recipes: dict[str, Recipe] = key(
        {
            "fc2": {"epochs": 25, "batch_size": 128},
            "lenet": {"epochs": 12},
            "alexnet": {"width": 0.25},
            "vgg11": {"width": 0.25},
            "vgg11_bn": {"width": 0.25},
            "resnet18": {"width": 0.125},
        },
        "By architecture: keys of training that differ, and seeds, another number of networks. Recipes that architectures have "
        f"of their own, in place of what training says: {own_recipes()}.",
        validate_default=True,
    )
    probes: Probing = Field(default_factory=Probing)
    sensitivity: Sensitivity = Field(default_factory=Sensitivity)
    channel_shuffle: ChannelShuffle = Field(default_factory=ChannelShuffle)
    scale_detection: ScaleDetection = Field(default_factory=ScaleDetection)
    imagenet: ImageNet = Field(default_factory=ImageNet)
    correlation: Correlation = Field(default_factory=Correlation)
    figures: Figures = Field(default_factory=Figures)

    @model_validator(mode="after")
    def _agree(self) -> "Config":
        wrong = self._wrong_networks(self, self.architectures, "")
        images = self.scale_detection.images
        wrong |= self._wrong_networks(images, self.scale_detection.architectures, "scale_detection.images.")
        if self.training_log and not importlib.util.find_spec("tensorboard"):
            wrong["training_log"] = "expected the package tensorboard, got none: pip install tensorboard, or set the key to null"
        missing = [noise for noise in self.shuffled_noise if noise not in self.noise]
        names = [f"{noise:g}" for noise in self.noise]
        levels = ", ".join(names)
        for noise, name in zip(self.noise, names, strict=True):
            if names.count(name) > 1 and noise != float(name):
                wrong["noise"] = (
                    f"expected levels that differ in their first 6 digits, as figures print them, got {noise!r} and {name}"
                )
        if missing:
            wrong["channel_shuffle.noise"] = f"expected levels of noise ({levels}), got {missing[0]:g}"
        for index, name in enumerate(self.probes.sweep_architectures or []):
            if name not in self.architectures:
                wrong[f"probes.sweep_architectures.{index}"] = one_of(name, self.architectures)
        if self.figures.example >= self.probes.images:
            wrong["figures.example"] = f"expected a number below probes.images ({self.probes.images}), got {self.figures.example}"
        if self.data.test_images is not None and self.probes.images > self.data.test_images:
            wrong["probes.images"] = f"expected at most data.test_images ({self.data.test_images}), got {self.probes.images}"
        refuse(wrong)
        return self

    def _wrong_networks(self, section: "Config | PairImages", trained: list[str], prefix: str) -> dict[str, str]:
        """Sentences for architectures that do not exist, and for those that have no pooling to replace."""
        known = {**ARCHITECTURES, **self.own_architectures}
        named = {f"architectures.{index}": name for index, name in enumerate(section.architectures)}
        named |= {f"recipes.{name}": name for name in section.recipes}
        wrong = {f"{prefix}{where}": one_of(name, known) for where, name in named.items() if name not in known}
        for name in trained:
            pooling = section.training_of(name).pooling
            if pooling not in (None, "none") and name in ARCHITECTURES and ARCHITECTURES[name].pooling == "none":
                in_recipe = section.recipes.get(name, Recipe()).model_dump(exclude_none=True)
                where = f"recipes.{name}.pooling" if "pooling" in in_recipe else "training.pooling"
                wrong.setdefault(
                    f"{prefix}{where}",
                    f"expected 'none' for {name}, which has no pooling to replace, got {pooling!r}: set "
                    f"{prefix}recipes.{name}.pooling to none",
                )
        return wrong

    @property
    def shuffled_noise(self) -> list[float]:
        """Noise levels whose networks are measured with shuffled channels."""
        return [min(self.noise)] if self.channel_shuffle.noise is None else self.channel_shuffle.noise
