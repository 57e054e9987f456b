"""Sections ``training`` and ``recipes``: how networks are trained."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from relstab.architectures import ARCHITECTURES, ActivationName, PoolingName
from relstab.config.section import AtLeastTwo, Count, NotNegative, Positive, Section, Seeds, key

Loss = Literal["cross_entropy", "hinge"]

RECIPE_VERSION = 2
"""Changes when the same recipe trains another network, so that older networks are trained again.

2: after ``schedule_fraction`` the cosine rises again; where the size of the training set is an axis, an epoch without
``steps_per_epoch`` is one pass over all images of the data set.
"""


class Training(Section):
    """How networks are trained. An architecture's own recipe, listed at recipes below, wins over this, and recipes win over
    both.
    """

    epochs: Count = key(5, "Passes over the training images.")
    steps_per_epoch: Count | None = key(
        None,
        "Steps of an epoch, at whose end the network is tested; null: one pass over the training images. Where their number is "
        "an axis, it is one pass over all images of the data set, so that networks of all sizes have the same steps.",
    )
    loss: Loss = key("cross_entropy", "cross_entropy, or, for two classes, hinge: one output, whose sign is the class.")
    batch_size: Count = key(64, "Images per step.")
    optimizer: Literal["sgd", "adam"] = key("sgd", "sgd (with momentum) or adam.")
    learning_rate: Positive = key(0.05, "Learning rate at the start of the schedule.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = key(0.9, "Momentum of sgd.")
    weight_decay: NotNegative = key(5e-4, "L2 penalty on parameters with more than one dimension.")
    schedule: Literal["cosine", "constant"] = key("cosine", "cosine (the learning rate falls to 0) or constant.")
    schedule_fraction: Annotated[float, Field(gt=0, le=1)] = key(
        1.0,
        "Share of the epochs over which the cosine falls to 0. After them it rises again: 0.8 is the reference's schedule, which "
        "ends at 0.14 of the learning rate.",
    )
    warmup_epochs: NotNegative = key(
        0, "Epochs at the start over which the learning rate rises linearly from 0; at most half of the schedule."
    )
    initialization: Literal["default", "he"] = key(
        "default", "default (torch's own), or he: normal weights of variance 2 / fan-in, biases 0."
    )
    width: Positive = key(1.0, "Multiplier of the number of channels or hidden units of every layer.")
    activation: ActivationName | None = key(
        None, "Activation of all layers: relu, tanh, gelu, abs; null: the architecture's own."
    )
    pooling: PoolingName | None = key(
        None, "max, average, or none for convolutions of stride 2 instead; null: the architecture's own."
    )
    crop_padding: Annotated[int, Field(ge=0, le=10**4)] = key(0, "Pixels of zero padding for random crops; 0: no crops.")
    flip: bool = key(False, "Whether to flip images horizontally at random (not for digits).")
    diffeo_displacement: NotNegative = key(
        0.0, "Typical displacement, in pixels, of a random diffeomorphism of each training image, drawn at every epoch; 0: none."
    )
    diffeo_cutoff: AtLeastTwo = key(3, "Largest mode number of these diffeomorphisms.")
    precision: Literal["auto", "float32", "bfloat16"] = key(
        "auto",
        "Precision of products and convolutions in training: float32, bfloat16, or auto, which is bfloat16 where the "
        "device computes in it (NVIDIA GPUs from Ampere on, CPUs with AMX or AVX-512 BF16), but float32 for fc* and lenet on a "
        "GPU, which it runs faster than it launches them. Weights and sensitivities are in float32, and so are errors, except, "
        "on a GPU, those of epochs whose weights are not kept.",
    )
    compile: bool = key(
        False,
        "Whether torch.compile compiles the network first: half a minute per job, for long training runs. What it makes for a "
        "GPU is kept in .compiled of the results, for all networks of an architecture.",
    )
    snapshots: Annotated[int, Field(ge=0, le=10**4)] = key(
        0,
        "Log-spaced epochs at which weights are kept, to measure D, G and R over training, which adds a figure; 0: "
        "none. A change trains the networks again.",
    )


class PairTraining(Training):
    """As training above, all of whose keys can be set here."""

    epochs: Count = key(15, "Passes over the training pairs.")
    loss: Loss = key("hinge", "hinge (one output, whose sign is the class) or cross_entropy.")
    batch_size: Count = key(32, "Pairs per step.")
    learning_rate: Positive = key(0.05, "0.02 for lenet, as above.")


def own_recipes() -> str:
    """The recipes that architectures have of their own, in words."""
    names: dict[str, list[str]] = {}
    for name, architecture in ARCHITECTURES.items():
        if architecture.recipe:
            names.setdefault(", ".join(f"{key} {value}" for key, value in architecture.recipe.items()), []).append(name)
    return "; ".join(f"{recipe} ({', '.join(those)})" for recipe, those in names.items())


class _RecipeBase(Section):
    seeds: Seeds | None = key(None, "Networks of this architecture at each noise level; null: as many as the others.")


def _optional(field: FieldInfo) -> tuple[Any, Any]:
    """The same key with the same bounds, which may be left out."""
    bounded: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    meaning = re.sub("; null: [^.]+", "", str(field.description))
    return (bounded | None, key(None, f"{meaning} Left out or null: as in training."))


Recipe: type[_RecipeBase] = create_model(
    "Recipe",
    __base__=_RecipeBase,
    __doc__="What one architecture does differently from training.",
    **{name: _optional(field) for name, field in Training.model_fields.items()},
)  # type: ignore[call-overload]  # the keys are fields, not options


class TrainedNetworks(Section):
    """A section with the keys ``seeds``, ``training`` and ``recipes``."""

    def training_of(self: Any, architecture: str) -> Training:
        """How one architecture is trained: ``training``, overridden by the architecture's recipe and then by ``recipes``."""
        changed = self.recipes.get(architecture, Recipe()).model_dump(exclude_none=True, exclude={"seeds"})
        needed = dict(ARCHITECTURES[architecture].recipe) if architecture in ARCHITECTURES else {}
        training: Training = self.training
        optimizer = (training.model_dump() | needed | changed)["optimizer"]
        if optimizer != needed.get("optimizer", "sgd"):
            for key in ("learning_rate", "schedule"):
                needed.pop(key, None)  # they hold for their optimizer
        return training.model_copy(update=needed | changed)

    def seeds_of(self: Any, architecture: str) -> list[int]:
        """Seeds of the networks of one architecture, from 0."""
        return list(range(self.recipes.get(architecture, Recipe()).seeds or self.seeds))
