"""What a simple CNN is made of and how it is trained, described and checked without torch."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from relstab.architectures import ACTIVATION_NAMES, ActivationName

__all__ = ["PAIRS", "VALIDATION", "EnsembleRecipe", "Scaling", "SimpleDesign"]

PAIRS = "pairs"
"""Name of the data set of images with two lit pixels, in tables and files."""

VALIDATION = 128
"""Pairs on which a training run with ridge is validated, as in the reference implementation."""

Scaling = Literal["mean_field", "ntk"]


@dataclass(frozen=True)
class SimpleDesign:
    """What a simple CNN is made of.

    Attributes:
        depth: K, convolutional layers.
        filter_size: F, sites of a filter.
        stride: s, sites between windows.
        channels: H of every layer.
        activation: phi: "relu", "tanh", "gelu" or "abs".
        scaling: of the read-out: "mean_field", 1/H, or "ntk", 1/sqrt(H).
    """

    depth: int
    filter_size: int
    stride: int
    channels: int
    activation: ActivationName = "relu"
    scaling: Scaling = "mean_field"

    def __post_init__(self) -> None:
        for name in ("depth", "filter_size", "stride", "channels"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"expected {name} to be at least 1, got {value}")
        if self.stride > self.filter_size:
            raise ValueError(
                f"expected stride to be at most filter_size = {self.filter_size}, got {self.stride}: "
                f"sites between windows are never seen otherwise"
            )
        for name, allowed in (("activation", ACTIVATION_NAMES), ("scaling", get_args(Scaling))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"expected {name} to be one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}")

    def sizes(self, size: int) -> list[int]:
        """Sites before each layer, and after the last, [K + 1], for a ring of ``size``.

        Raises:
            ValueError: a layer has less than half the sites of its filter; the padding round the ring cannot add the rest.
        """
        found = [size]
        for layer in range(1, self.depth + 1):
            if found[-1] < self.filter_size // 2:
                raise ValueError(
                    f"expected depth to be at most {layer - 1}, or a smaller stride or filter_size, got depth {self.depth}: on a "
                    f"size of {size}, layer {layer} sees {found[-1]} sites through filters of {self.filter_size}"
                )
            found.append(-(-found[-1] // self.stride))
        return found

    @property
    def gain(self) -> float:
        """Factor after the activation, sqrt(F)."""
        return math.sqrt(self.filter_size)

    @property
    def readout(self) -> float:
        """Factor of the read-out: 1/H or 1/sqrt(H)."""
        return 1 / self.channels if self.scaling == "mean_field" else self.channels**-0.5

    @property
    def rate_factor(self) -> float:
        """Factor of the learning rate: H in the mean-field scaling, so that features move as much at any width; otherwise 1."""
        return float(self.channels) if self.scaling == "mean_field" else 1.0

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the parameters in order; weights are [F * channels before, H], sites first."""
        before = 1
        for layer in range(self.depth):
            yield f"weights.{layer}", (self.filter_size * before, self.channels)
            yield f"biases.{layer}", (self.channels,)
            before = self.channels
        yield "beta", (self.channels,)
        yield "output_bias", ()

    @property
    def parameter_count(self) -> int:
        """Number of its parameters."""
        return sum(math.prod(shape) for _, shape in self.parameters())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class EnsembleRecipe:
    """How simple CNNs are trained.

    Attributes:
        learning_rate: times H in the mean-field scaling.
        batch_size: pairs per step.
        epochs: at most, to zero training loss.
        decay_epochs: epochs with weight decay after that; 0 for none.
        weight_decay: share of the layers' weights that a step takes off in these epochs, in units of the learning rate. The
            reference implementation's ridge r makes it 2 r / K.
        ridge: r of the penalty r sum |w|^2 / (H K) on the weights of the layers, from the first epoch on; 0 for none. Training
            then ends with an epoch without loss or validation error that is at least ``interpolation_factor`` times the first
            epoch without loss, or after ``epochs``.
        interpolation_factor: 500 in the reference implementation.
    """

    learning_rate: float = 0.01
    batch_size: int = 8
    epochs: int = 200
    decay_epochs: int = 0
    weight_decay: float = 0.0
    ridge: float = 0.0
    interpolation_factor: int = 500

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("epochs", 1), ("decay_epochs", 0), ("interpolation_factor", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} to be at least {least}, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"expected learning_rate to be positive and finite, got {self.learning_rate}")
        if not 0 <= self.weight_decay * self.learning_rate < 1:
            raise ValueError(
                f"expected weight_decay times learning_rate to be at least 0 and below 1, got {self.weight_decay} times "
                f"{self.learning_rate}"
            )
        if not (self.ridge >= 0 and math.isfinite(self.ridge)):
            raise ValueError(f"expected ridge to be at least 0 and finite, got {self.ridge}")
        if self.ridge and self.decay_epochs:
            raise ValueError(f"expected decay_epochs to be 0 beside a ridge, got {self.decay_epochs}")
