"""Training many simple CNNs at once on a scale-detection task, until the training loss of each is zero (paper, section 4).

Hinge loss, gradient descent on small batches without momentum. Members of an ensemble differ by seed; each
has its own order of the training pairs at every epoch and stops when an epoch had no loss in any of its batches, whatever the
others do. At that moment most of a member's weights are still the random ones that it began with, which hide what it learned.
Training then continues for some epochs with weight decay, which leaves what the task needs. The reference implementation has a
ridge from the first epoch on instead, and trains much longer (``EnsembleRecipe.ridge``).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from relstab.runs.allocation import kept_memory
from relstab.runs.devices import choose_device, repeatable
from relstab.runs.seeding import make_generator
from relstab.scale_detection.design import EnsembleRecipe, SimpleDesign
from relstab.scale_detection.ensemble import Ensemble, initial_parameters
from relstab.scale_detection.ensemble_steps import EnsembleSteps
from relstab.scale_detection.tasks import Pairs, ScaleTask
from relstab.training.checkpoint import Checkpoint, Checkpoints, digest
from relstab.training.checkpointer import Checkpointer

__all__ = ["STATES", "EnsembleRecipe", "TrainedEnsemble", "ensemble_error", "train_ensemble"]

STATES = ("init", "trained", "decayed")
"""Weights that are kept: at initialization, at zero training loss, and at the end of training with decay or ridge, if any."""

Parameters = dict[str, Tensor]

_CHECKPOINT_FORMAT = 1


@dataclass
class TrainedEnsemble:
    """Members before and after training.

    Attributes:
        task, design, recipe: what was trained on what, and how.
        seeds: of each member, [M].
        states: parameters [M, ...] by state and name.
        epochs: of each member, until its training loss was zero, [M].
        reached_zero: whether it was, or the epochs were over, [M].
        loss: mean training loss of each epoch, one list per member.
    """

    task: ScaleTask
    design: SimpleDesign
    recipe: EnsembleRecipe
    seeds: list[int]
    states: dict[str, Parameters]
    epochs: list[int]
    reached_zero: list[bool]
    loss: list[list[float]]
    checkpoints: Path | None = None


# Numbers that the widest layer of an ensemble may hold at a time where no gradients are kept: 256 MB.
_ENTRIES = 2**26


def ensemble_error(ensemble: Ensemble, task: ScaleTask, pairs: Pairs) -> Tensor:
    """Share of pairs, [M], whose output does not have the sign of their label; 0 is wrong."""
    device = ensemble.parameters["beta"].device
    batch_size = max(1, min(512, _ENTRIES // (len(ensemble) * ensemble.widest)))
    wrong = torch.zeros(len(ensemble), device=device)
    for start in range(0, len(pairs), batch_size):
        part = pairs[start : start + batch_size]
        images = task.images(part.sites).flatten(1).to(device).expand(len(ensemble), -1, -1)
        wrong += (ensemble.outputs(images) * part.labels.to(device) <= 0).sum(1)
    return wrong.cpu() / len(pairs)


@dataclass
class _EnsembleRun:
    """The training of an ensemble at one moment.

    Attributes:
        ensemble: the members that are still in training, and ``members`` [m] which ones these are.
        epoch: how many are complete.
        position: batches of the next one that are done, and ``total`` [m] the losses in them.
        kept: parameters of the members, [M, ...], by state, as far as they are known, on the CPU.
        steps: of the members that are still in training.
    """

    task: ScaleTask
    design: SimpleDesign
    recipe: EnsembleRecipe
    identities: list[list[str | int | float]]
    images: Tensor
    labels: Tensor
    ensemble: Ensemble
    members: Tensor
    kept: dict[str, Parameters]
    validation: Pairs | None = None
    epoch: int = 0
    position: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(0))
    zero_at: list[int] = field(default_factory=list)
    reached: list[bool] = field(default_factory=list)
    loss: list[list[float]] = field(default_factory=list)
    steps: EnsembleSteps | None = None

    def __post_init__(self) -> None:
        count = len(self.identities)
        self.zero_at, self.reached, self.loss = [0] * count, [False] * count, [[] for _ in range(count)]

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.images) / self.recipe.batch_size)

    @property
    def step_number(self) -> int:
        return self.epoch * self.steps_per_epoch + self.position

    @property
    def where(self) -> str:
        going = f"{len(self.members)} of {len(self.identities)} networks to go"
        return f"epoch {self.epoch + 1}, batch {self.position} of {self.steps_per_epoch}, with {going}"

    @property
    def _later(self) -> list[str]:
        """The states that a checkpoint holds: the initialization is there anyway."""
        return [state for state in self.kept if state != "init"]

    def checkpoint(self) -> Checkpoint:
        tensors = {f"ensemble/{name}": value for name, value in self.ensemble.parameters.items()}
        for state in self._later:
            tensors |= {f"kept/{state}/{name}": value for name, value in self.kept[state].items()}
        tensors["total"] = self.total
        values = {
            "epoch": self.epoch,
            "position": self.position,
            "zero_at": self.zero_at,
            "reached": self.reached,
            "loss": self.loss,
        }
        return Checkpoint(tensors, {**values, "members": self.members.tolist()})

    def restore(self, checkpoint: Checkpoint) -> None:
        device = self.images.device

        def under(prefix: str) -> Parameters:
            return {name: checkpoint.tensors[f"{prefix}/{name}"] for name, _ in self.design.parameters()}

        values = checkpoint.values
        self.epoch, self.position, self.loss = (values[name] for name in ("epoch", "position", "loss"))
        self.zero_at, self.reached = values["zero_at"], values["reached"]
        self.total = checkpoint.tensors["total"].to(device)
        self.members = torch.tensor(values["members"], dtype=torch.int64)
        going = {name: value.to(device) for name, value in under("ensemble").items()}
        self.ensemble = Ensemble(self.design, self.task.size, going)
        self.kept |= {state: under(f"kept/{state}") for state in self._later}

    def run_epoch(self, maybe_save: Callable[[], None]) -> None:
        """The rest of an epoch of the members still in training; keeps the states of those that have reached an end."""
        device, members = self.images.device, self.members.tolist()
        # From the identities alone, so that a checkpoint in mid-epoch needs no order.
        orders = [
            torch.randperm(len(self.images), generator=make_generator("order", *self.identities[member], self.epoch + 1))
            for member in members
        ]
        order = torch.stack(orders).to(device)
        rates = torch.full((len(members),), self.recipe.learning_rate, device=device) * self.design.rate_factor
        decaying = [bool(self.zero_at[member]) for member in members]
        share = rates / self.design.rate_factor * self.recipe.weight_decay * torch.tensor(decaying, device=device)
        decays = self.recipe.weight_decay > 0 and any(decaying)
        if self.recipe.ridge:
            share, decays = rates * (2 * self.recipe.ridge / (self.design.channels * self.design.depth)), True
        if self.position == 0:
            self.total = torch.zeros(len(members), device=device)
        if self.steps is None or self.steps.ensemble is not self.ensemble or self.steps.decays != decays:
            self.steps = EnsembleSteps(self.ensemble, self.images, self.labels, self.recipe.batch_size, decays)
        self.steps.begin(order, self.position, self.total, rates, share)
        self.total = self.steps.total
        while self.position < self.steps_per_epoch:
            self.steps.step(self.position)
            self.position += 1
            if self.position < self.steps_per_epoch:
                maybe_save()
        self.epoch, self.position = self.epoch + 1, 0
        self._note(members, (self.total / len(self.images)).tolist())

    def _ends(self, members: list[int], losses: list[float]) -> list[bool]:
        """Whether the training of each member ends with this epoch."""
        recipe, zero_at = self.recipe, [self.zero_at[member] for member in members]
        if not recipe.ridge:
            return [bool(epoch) and self.epoch == epoch + recipe.decay_epochs for epoch in zero_at]
        if self.epoch == recipe.epochs:
            return [True] * len(members)
        late = [
            loss == 0 and bool(epoch) and self.epoch >= recipe.interpolation_factor * epoch
            for epoch, loss in zip(zero_at, losses, strict=True)
        ]
        if not any(late):
            return late
        assert self.validation is not None
        errors = ensemble_error(self.ensemble, self.task, self.validation).tolist()
        return [is_late and error == 0 for is_late, error in zip(late, errors, strict=True)]

    def _note(self, members: list[int], losses: list[float]) -> None:
        for place, (member, loss) in enumerate(zip(members, losses, strict=True)):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the training loss of the simple CNN {self.identities[member]} became {loss} in epoch {self.epoch} at "
                    f"learning rate {self.recipe.learning_rate:g}: lower it "
                    f"(config: scale_detection.simple, learning_rate)"
                )
            self.loss[member].append(loss)
            if not self.zero_at[member] and (loss == 0 or self.epoch == self.recipe.epochs):
                self.zero_at[member], self.reached[member] = self.epoch, loss == 0
                self._keep("trained", member, place)
        ends = self._ends(members, losses)
        for place, member in enumerate(members):
            if ends[place] and "decayed" in self.kept:
                self._keep("decayed", member, place)
        if any(ends):
            going = torch.tensor([place for place, end in enumerate(ends) if not end], dtype=torch.int64)
            self.members = self.members[going]
            self.ensemble = self.ensemble.select(going.to(self.images.device))

    def _keep(self, state: str, member: int, place: int) -> None:
        for name, value in self.ensemble.member(place).items():
            self.kept[state][name][member] = value.cpu()


@contextlib.contextmanager
def _no_subnormals() -> Iterator[None]:
    """Inside, subnormal numbers are 0: decayed weights become subnormal, and a CPU is many times slower on such numbers."""
    before = float(torch.full((1,), 1e-40) * 1) == 0  # torch does not tell how it is set
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def train_ensemble(
    task: ScaleTask,
    train: Pairs,
    design: SimpleDesign,
    recipe: EnsembleRecipe,
    seeds: Sequence[int],
    identity: Sequence[str | int | float] = (),
    device: str | torch.device = "auto",
    checkpoints: str | Path | None = None,
    checkpoint_minutes: float = 3.0,
    validation: Pairs | None = None,
) -> TrainedEnsemble:
    """Train one simple CNN for each seed, all at once.

    Each member equals the one that training it alone gives, bit for bit on one CPU thread, and otherwise up to rounding: its
    initialization and its orders of the pairs follow from ``identity`` and its seed.

    Args:
        task: its images are those of ``train``.
        train: training pairs, in batches of the recipe's size (the last of an epoch may be smaller).
        design: of every member.
        recipe: learning rate, batches and epochs.
        seeds: of the members.
        identity: of the run: its seed and so on.
        device: "auto", "cpu", "cuda" or "cuda:N".
        checkpoints: folder for checkpoints, as in :func:`relstab.train_network`; None for none.
        checkpoint_minutes: between two checkpoints.
        validation: pairs without error at the end of a training run with ridge.

    Raises:
        FloatingPointError: a loss became NaN or infinite.
    """
    if task.dimension != 1:
        raise ValueError(f"expected a task of dimension 1, a ring, got {task.dimension}")
    if recipe.ridge and validation is None:
        raise ValueError("expected validation pairs beside a ridge, got none")
    if not seeds:
        raise ValueError("expected at least one seed, got none")
    place = choose_device(str(device))
    identities: list[list[str | int | float]] = [[*identity, seed] for seed in seeds]
    with kept_memory(place), repeatable(place), _no_subnormals():
        first = initial_parameters(design, identities)
        run = _EnsembleRun(
            task=task,
            design=design,
            recipe=recipe,
            identities=identities,
            images=task.images(train.sites).flatten(1).to(place),
            labels=train.labels.to(place, torch.float32),
            ensemble=Ensemble(design, task.size, {name: value.to(place, copy=True) for name, value in first.items()}),
            members=torch.arange(len(seeds)),
            kept={
                state: {name: value.clone() for name, value in first.items()}
                for state in STATES
                if recipe.decay_epochs or recipe.ridge or state != "decayed"
            },
            validation=validation,
        )
        if checkpoints is None:
            _train(run, lambda: None)
        else:
            everything = {
                "format": _CHECKPOINT_FORMAT,
                "identities": identities,
                "task": vars(task),
                "design": design.as_dict(),
                "recipe": vars(recipe),
                "images": digest(train.sites, train.labels, *([validation.sites] if validation else [])),
                "threads": torch.get_num_threads() if place.type == "cpu" else place.type,
            }
            kept = Checkpoints(checkpoints, everything)
            checkpointer = Checkpointer(run, kept, 60 * checkpoint_minutes)
            with checkpointer.listening():
                checkpointer.resume()
                _train(run, checkpointer.maybe_save)
    folder = None if checkpoints is None else kept.folder
    return TrainedEnsemble(task, design, recipe, list(seeds), run.kept, run.zero_at, run.reached, run.loss, folder)


def _train(run: _EnsembleRun, maybe_save: Callable[[], None]) -> None:
    """Train to the end from where the run is; ``maybe_save`` is called where it may be saved."""
    most = run.recipe.epochs + run.recipe.decay_epochs
    with tqdm(total=most, initial=run.epoch, desc=f"{len(run.identities)} simple CNNs", unit="epoch", disable=None) as progress:
        while len(run.members):
            run.run_epoch(maybe_save)
            progress.update()
            losses = [loss[-1] for loss in run.loss]
            text = f"loss {min(losses):.4f} to {max(losses):.4f}, {sum(run.reached)} of {len(losses)} at zero"
            progress.set_postfix_str(text)
            if progress.disable:
                print(f"epoch {run.epoch}: {text}, {len(run.members)} to go", flush=True)
            if len(run.members):
                maybe_save()
