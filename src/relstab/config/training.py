"""Sections ``training`` and ``recipes``: how networks are trained."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from relstab.architectures import ARCHITECTURES, ActivationName, Architecture, PoolingName
from relstab.config.section import AtLeastTwo, Count, NotNegative, Positive, Section

__all__ = ["PairTraining", "Recipe", "Training", "seeds_of", "training_of"]

Loss = Literal["cross_entropy", "hinge"]


class Training(Section):
    """How networks are trained. What an architecture needs to learn (src/relstab/architectures/__init__.py) wins over this, and recipes
    below win over both. It is Adam, a learning rate of 0.001 and no weight decay for fc2, fc4 and fc6; a learning rate of 0.02 for
    lenet; that, He's initialization and a warm-up of 2 epochs for alexnet and for vgg11 to vgg19 without batch norm; a warm-up of 2
    epochs for vgg16_bn and vgg19_bn.
    """

    epochs: Count = Field(13, description="Passes over the training images.")
    loss: Loss = Field(
        "cross_entropy", description="cross_entropy, or, for two classes, hinge: one output, whose sign is the class."
    )
    batch_size: Count = Field(64, description="Images per step.")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd (with momentum) or adam.")
    learning_rate: Positive = Field(0.05, description="Learning rate at the start of the schedule.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of sgd.")
    weight_decay: NotNegative = Field(5e-4, description="L2 penalty on parameters with more than one dimension.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="cosine (the learning rate falls to 0) or constant.")
    schedule_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the epochs over which the cosine falls to 0; the learning rate is 0 for the rest."
    )
    warmup_epochs: NotNegative = Field(
        0, description="Epochs at the start over which the learning rate rises linearly from 0; at most half of the schedule."
    )
    initialization: Literal["default", "he"] = Field(
        "default", description="default (torch's own), or he: normal weights of variance 2 / fan-in, biases 0."
    )
    width: Positive = Field(1.0, description="Multiplier of the number of channels or hidden units of every layer.")
    activation: ActivationName | None = Field(
        None, description="Activation of all layers: relu, tanh, gelu, abs; null: the architecture's own."
    )
    pooling: PoolingName | None = Field(
        None, description="max, average, or none for convolutions of stride 2 instead; null: the architecture's own."
    )
    crop_padding: Annotated[int, Field(ge=0)] = Field(0, description="Pixels of zero padding for random crops; 0: no crops.")
    flip: bool = Field(False, description="Whether to flip images horizontally at random (not for digits).")
    diffeo_displacement: NotNegative = Field(
        0.0,
        description="Typical displacement, in pixels, of a random diffeomorphism of each training image, drawn at every epoch; "
        "0: none.",
    )
    diffeo_cutoff: AtLeastTwo = Field(3, description="Largest mode number of these diffeomorphisms.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of products and convolutions in training: float32, bfloat16, or auto, which is bfloat16 where the "
        "device computes in it (NVIDIA GPUs from Ampere on, CPUs with AMX). Weights, errors and sensitivities are always float32.",
    )
    compile: bool = Field(
        False, description="Whether torch.compile compiles the network first: half a minute per job, for long training runs."
    )
    snapshots: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Log-spaced epochs at which weights are kept, to measure D, G and R over training, which adds a figure; 0: "
        "none. A change trains the networks again.",
    )


class PairTraining(Training):
    """As training above, all of whose keys can be set here."""

    epochs: Count = Field(15, description="Passes over the training pairs.")
    loss: Loss = Field("hinge", description="hinge (one output, whose sign is the class) or cross_entropy.")
    batch_size: Count = Field(32, description="Pairs per step.")
    learning_rate: Positive = Field(0.05, description="0.02 for lenet, as above.")


class _RecipeBase(Section):
    seeds: Count | None = Field(
        None, description="Networks of this architecture at each noise level; null: as many as the others."
    )


def _optional(field: FieldInfo) -> tuple[Any, Any]:
    """The same key with the same bounds, which may be left out."""
    bounded: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    meaning = str(field.description).replace("; null: the architecture's own", "")
    return (bounded | None, Field(None, description=f"{meaning} Left out or null: as in training."))


Recipe: type[_RecipeBase] = create_model(
    "Recipe",
    __base__=_RecipeBase,
    __doc__="What one architecture does differently from training.",
    **{name: _optional(field) for name, field in Training.model_fields.items()},
)  # type: ignore[call-overload]  # the keys are fields, not options


def training_of(architecture: str, training: Training, recipes: Mapping[str, Any]) -> Training:
    """How one architecture is trained: ``training``, with what it needs to learn, with what ``recipes`` changes."""
    changed = recipes.get(architecture, Recipe()).model_dump(exclude_none=True, exclude={"seeds"})
    needed = dict(ARCHITECTURES.get(architecture, Architecture(architecture)).recipe)
    optimizer = (training.model_dump() | needed | changed)["optimizer"]
    if optimizer != needed.get("optimizer", "sgd"):
        needed.pop("learning_rate", None)  # a learning rate holds for its optimizer
    return training.model_copy(update=needed | changed)


def seeds_of(architecture: str, seeds: int, recipes: Mapping[str, Any]) -> list[int]:
    """Seeds of the networks of one architecture, from 0."""
    return list(range(recipes.get(architecture, Recipe()).seeds or seeds))
