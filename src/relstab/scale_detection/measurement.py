"""D, G, R and A_k of every layer of simple CNNs, whole and averaged over channels, before and after training."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from relstab.probes import Probes
from relstab.runs.devices import choose_device, repeatable
from relstab.runs.seeding import make_generator
from relstab.scale_detection.ensemble import Ensemble
from relstab.scale_detection.ensemble_training import TrainedEnsemble, ensemble_error
from relstab.scale_detection.perturbations import Noise, make_pair_probes
from relstab.scale_detection.receptive_field import participation_field
from relstab.scale_detection.simple_cnn import SimpleCNN
from relstab.scale_detection.tasks import Pairs, ScaleTask
from relstab.sensitivity import accumulate_sums
from relstab.sensitivity_table import COLUMNS, MEDIANS, sensitivity_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["REPRESENTATIONS", "ChannelAverages", "measure_ensemble", "measure_with_averages"]

REPRESENTATIONS = ("whole", "average")
"""What is measured of a layer: all of it, or its average over channels."""

# Lit sites over which receptive fields are averaged.
_LIT_SITES = 128


class _Average(nn.Module):
    """Average over channels, [N, C, ...] to [N, 1, ...]."""

    def forward(self, values: Tensor) -> Tensor:
        return values.mean(1, keepdim=True)


class ChannelAverages(nn.Module):
    """A network that also averages some of its layers over channels, for :func:`relstab.measure_sensitivity` to watch.

    Its forward pass is that of the network. Layer ``name`` is ``model.name`` here, and its average ``averages.name``, with
    slashes for dots.

    Args:
        model: any network.
        layers: names of its modules, each of which gives [N, C, ...].
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        modules = dict(model.named_modules())
        self.model = model
        self.averages = nn.ModuleDict({self._key(name): _Average() for name in layers})
        self._handles = [modules[name].register_forward_hook(self._hook(name)) for name in layers]

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "/")

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        average = self.averages[self._key(name)]

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            average(output)  # to be watched; the network continues with its own output

        return hook

    def names(self, name: str) -> dict[str, str]:
        """Names here of a layer, by representation."""
        return {"whole": f"model.{name}", "average": f"averages.{self._key(name)}"}

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.model(images)
        return result

    def close(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()


def measure_with_averages(
    model: nn.Module, probes: Probes, layers: Sequence[str], batch_size: int | None = None
) -> "pd.DataFrame":
    """D, G and R of some layers of a network, whole and averaged over channels, of its input and of its output.

    Args:
        model, probes, batch_size: as in :func:`relstab.measure_sensitivity`.
        layers: names of the modules f_1 ... f_K, in order.

    Returns:
        The rows of :func:`relstab.measure_sensitivity` (NaN where a layer gives the same for all images) with the columns
        representation ("whole", "average") and k: 0 for the input, then 1 ... K, and K + 1 for the output; ``layer`` is the
        module's name in ``model``.
    """
    import pandas as pd

    watched = ChannelAverages(model, layers)
    places = {"input": ("input", "whole", 0), "output": ("output", "whole", len(layers) + 1)}
    for k, layer in enumerate(layers, start=1):
        places |= {name: (layer, representation, k) for representation, name in watched.names(layer).items()}
    try:
        table = pd.DataFrame(sensitivity_rows(accumulate_sums(watched, probes, list(places), batch_size)), columns=COLUMNS)
    finally:
        watched.close()
    found = pd.DataFrame([places[name] for name in table["layer"]], columns=["layer", "representation", "k"])
    return pd.concat([found, table.drop(columns=["layer", "index", "depth", *MEDIANS])], axis=1).sort_values(
        ["k", "representation"], ignore_index=True
    )


def _fields(ensemble: Ensemble, task: ScaleTask) -> dict[tuple[str, int], float]:
    """A_k by representation and layer k, of an ensemble of one."""
    device = ensemble.parameters["beta"].device
    # Out of more sites some at random: evenly spaced ones would all lie in the same place of their windows.
    lit = torch.randperm(task.sites, generator=torch.Generator().manual_seed(0))[:_LIT_SITES]
    images = task.images(lit[:, None]).flatten(1).to(device)[None]
    responses, blanks = ensemble.layers(images), ensemble.layers(torch.zeros_like(images[:, :1]))
    found = {("whole", 0): 1.0}
    for k, (response, blank) in enumerate(zip(responses, blanks, strict=True), start=1):
        for representation in REPRESENTATIONS:
            average = representation == "average"
            found[representation, k] = float(participation_field(response, blank, task.sites, average))
    return found


def measure_ensemble(
    trained: TrainedEnsemble,
    pairs: Pairs,
    count: int = 500,
    identity: Sequence[str | int | float] = (),
    batch_size: int | None = None,
    device: str | torch.device = "auto",
) -> "pd.DataFrame":
    """Measure every member of an ensemble in each of its states.

    Args:
        trained: from :func:`relstab.scale_detection.ensemble_training.train_ensemble`.
        pairs: test pairs; errors are over all of them, sensitivities over the first ``count``.
        count: P.
        identity: from which the perturbations follow, with the seed of the member: each has its own.
        batch_size: as in :func:`relstab.measure_sensitivity`.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        A row for each state, member, noise ("gaussian", "rectified"), representation and layer: the columns of
        :func:`measure_with_averages`, and learning_rate, epochs and reached_zero of the member, test_error and
        receptive_field (A_k; 1 for the input, NaN for the output).
    """
    import pandas as pd

    task, design, place = trained.task, trained.design, choose_device(str(device))
    layers = [f"layers.{layer}" for layer in range(design.depth)]
    # Perturbed separately for each member: few moves matter to deep layers, and the spread over members must include this.
    probes = {
        seed: {
            noise: make_pair_probes(task, pairs.sites[:count], noise, make_generator("pair probes", *identity, seed))
            for noise in get_args(Noise)
        }
        for seed in trained.seeds
    }
    parts = []
    with torch.no_grad(), repeatable(place):
        for state, parameters in trained.states.items():
            print(f"{state}: {len(trained.seeds)} networks, {len(pairs[:count])} probes", flush=True)
            ensemble = Ensemble(design, task.size, {name: value.to(place) for name, value in parameters.items()})
            errors = ensemble_error(ensemble, task, pairs)
            for index, seed in enumerate(trained.seeds):
                model = SimpleCNN(design).set_parameters(ensemble.member(index)).to(place)
                # One by one: all their layers at once would not fit into memory at the width of the paper.
                fields = _fields(ensemble.select(torch.tensor([index], device=place)), task)
                for noise, versions in probes[seed].items():
                    table = measure_with_averages(model, versions, layers, batch_size)
                    keys = zip(table["representation"], table["k"], strict=True)
                    parts.append(
                        table.assign(
                            state=state,
                            seed=seed,
                            learning_rate=trained.recipe.learning_rate,
                            epochs=trained.epochs[index],
                            reached_zero=trained.reached_zero[index],
                            noise=noise,
                            test_error=float(errors[index]),
                            receptive_field=[fields.get(key, float("nan")) for key in keys],
                        )
                    )
    return pd.concat(parts, ignore_index=True)
