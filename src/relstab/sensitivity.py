"""Sensitivity of every layer of a network to diffeomorphisms (D), to white noise (G), and their ratio (R).

For a representation f and images x (Tomasini et al., arXiv 2210.01506, Eq. 1),

    D = E|f(tau x) - f(x)|^2 / E|f(x1) - f(x2)|^2,   G = E|f(x + eta) - f(x)|^2 / (the same),   R = D / G,

with |eta| = |tau x - x| image by image. x1 and x2 are drawn independently, so that over P images the denominator is
the mean over all P^2 pairs, which is 2 (mean |f|^2 - |mean f|^2) exactly: it takes one pass and no pairs.
"""

import contextlib
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

import relstab
from relstab.activations import evaluating
from relstab.batch_norm import VersionNorms, has_batch_norm
from relstab.probes import VERSIONS, Probes
from relstab.recorder import Recorder, RepresentationStore, Trial, floating_tensors, placed, unwrapped
from relstab.runs.allocation import kept_memory
from relstab.runs.devices import repeatable
from relstab.sensitivity_table import COLUMNS, LayerSums, sensitivity_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RepresentationStore", "accumulate_sums", "measure_sensitivity"]


def _never_saw_an_image(norm: _BatchNorm) -> bool:
    """Whether the running statistics are those of construction: mean 0 and variance 1."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not bool(mean.any()) and bool((variance == 1).all())


def _warn_of_batch_norms(model: nn.Module) -> None:
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    unseen = [name for name, norm in norms.items() if _never_saw_an_image(norm)]
    if unseen:
        warnings.warn(
            f"{len(unseen)} batch norms, {unseen[0]!r} the first, never saw an image: their running mean 0 and variance 1 "
            f"are not statistics of the network; measure with batch_norm='per_version', or call "
            f"relstab.estimate_batch_statistics(model, images) before",
            stacklevel=5,
        )
    untracked = [name for name, norm in norms.items() if norm.running_mean is None]
    if untracked:
        warnings.warn(
            f"{len(untracked)} batch norms, {untracked[0]!r} the first, keep no running statistics: they normalise an image by "
            f"those of its batch, so that D, G and R depend on the batch size; use track_running_stats=True or "
            f"batch_norm='per_version'",
            stacklevel=5,
        )


# Bytes that the activations of one layer may take, three versions of a batch, when the batch size is automatic. On a CPU larger
# batches take more memory and gain little. A GPU needs larger batches to be busy.
_LAYER_BYTES = {"cpu": 48 * 2**20, "cuda": 256 * 2**20}
# At least this many images per batch, since each reads and writes the sums, 8 bytes per feature. The first has as many.
_SMALLEST_BATCH = 8
_LARGEST_BATCH = 4096


def _batches(
    probes: Probes | Iterable[Probes], batch_size: int | None, recorder: Recorder, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], Probes]]:
    """Positions of the probes of each batch, and these probes.

    If the batch size is automatic, the first batch shows how much memory an image takes. Probes that are all in memory come in
    random order, the same in every run: then the running means behind the standard errors are means of all kinds of images, also
    where the images are sorted by class.
    """
    shuffled = isinstance(probes, Probes)
    seen = 0
    for part in [probes] if isinstance(probes, Probes) else probes:
        if not isinstance(part, Probes):
            raise ValueError(f"expected Probes or an iterable of Probes, got an iterable of {type(part).__name__}")
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(len(part))
        start = 0
        while start < len(part):
            remaining = len(part) - start
            size = batch_size
            if size is None:
                available = _LAYER_BYTES.get(device.type, _LAYER_BYTES["cuda"])
                fitting = available // (3 * recorder.bytes_per_image) if recorder.bytes_per_image else 0
                most = min(max(fitting, _SMALLEST_BATCH), _LARGEST_BATCH)
                size = math.ceil(remaining / math.ceil(remaining / most))  # equal batches: no small one at the end
            rows = order[start : start + size]
            yield (seen + rows).numpy(), part[rows if shuffled else slice(start, start + size)]
            start += size
        seen += len(part)


# Bytes that the activations of one layer may take, one version of all images, for batch norm to see all of them in one pass.
_ONE_PASS_BYTES = {"cpu": 512 * 2**20, "cuda": 4 * 2**30}


def _largest(model: nn.Module, images: Tensor) -> int:
    """Bytes per image of the largest output of a module."""
    sizes = [1]

    def measure(_module: nn.Module, _args: Any, output: Any) -> None:
        sizes.extend(tensor.numel() * tensor.element_size() // len(images) for tensor in floating_tensors(output))

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(measure).remove)
        model(images)
    return max(sizes)


def _version_norms(
    model: nn.Module, probes: Probes | Iterable[Probes], batch_size: int | None, load: Callable[[Tensor], Tensor]
) -> VersionNorms:
    """Batch norms with the statistics of each version of the probes; the model is in evaluation mode."""
    if isinstance(probes, Iterator):
        raise ValueError(
            "expected Probes or a list of Probes for batch_norm='per_version', which reads them several times, "
            "got an iterator, which can be read once"
        )
    parts = [probes] if isinstance(probes, Probes) else probes
    total = sum(map(len, parts))
    if batch_size is None:
        first = load(next(iter(parts)).images[:2])
        image_bytes = _largest(model, first)
        one_pass, several = (sizes.get(first.device.type, sizes["cuda"]) for sizes in (_ONE_PASS_BYTES, _LAYER_BYTES))
        batch_size = total if total * image_bytes <= one_pass else max(several // image_bytes, _SMALLEST_BATCH)

    def batches(version: str) -> Iterator[Tensor]:
        if total <= batch_size:
            yield load(torch.cat([getattr(part, version) for part in parts]))
        else:
            for part in parts:
                yield from map(load, getattr(part, version).split(batch_size))

    norms = VersionNorms(model)
    for version in VERSIONS:
        norms.estimate(functools.partial(batches, version), total <= batch_size)
    return norms


def accumulate_sums(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    store: RepresentationStore | None = None,
    batch_norm: Literal["running", "per_version"] = "running",
    output: str | Callable[[Any], Any] | None = None,
    trial: Trial | None = None,
) -> list[LayerSums]:
    """Run the probes through the network and accumulate the sums behind D, G and R of every layer.

    The three versions of a batch go through the network together. Each layer is reduced as soon as it is computed, before the
    next one can change it in place, so that no activation outlives its layer and the memory does not grow with P. float32 is
    never rounded to TF32, which makes R too low: by a part in a thousand at displacements of a pixel, by a tenth at a hundredth
    of a pixel.

    Args:
        model, probes, layers, batch_size, store, batch_norm, output: those of :func:`measure_sensitivity`.
        trial: of this network, if there was one.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"expected batch_size to be at least 1, or None for an automatic one, got {batch_size}")
    if batch_norm not in ("running", "per_version"):
        raise ValueError(f"expected batch_norm to be 'running' or 'per_version', got {batch_norm!r}")
    model = unwrapped(model)
    per_version = batch_norm == "per_version" and has_batch_norm(model)
    if not per_version:
        _warn_of_batch_norms(model)
    probes, first = _peeked(probes)
    images = first.images if isinstance(first, Probes) else torch.empty(0)
    trial = trial or Trial(model, images)
    recorder = Recorder(model, layers, trial, medians=True, store=store, output=output)
    device = placed(model, torch.empty(0)).device
    total = len(probes) if isinstance(probes, Probes) else None
    # The bar appears on a terminal, after 10 s.
    with (
        repeatable(device),
        kept_memory(device),
        evaluating(model),
        contextlib.ExitStack() as stack,
        tqdm(total=total, unit=" images", delay=10, disable=None, leave=False) as bar,
    ):
        if per_version:
            stack.enter_context(_version_norms(model, probes, batch_size, trial.placed).applied())
        stack.enter_context(recorder.watching())
        for rows, part in _batches(probes, batch_size, recorder, device):
            stacked = trial.placed(torch.cat([part.images, part.deformed, part.noisy]))
            recorder.send(rows, stacked)
            bar.update(len(part))
    return recorder.finish()


def _report_constants(sums: Sequence[LayerSums], constant: Literal["nan", "raise"]) -> None:
    """Raise or warn if layers return the same representation for all images."""
    names = ", ".join(repr(layer.layer) for layer in sums if layer.is_constant)
    if names and constant == "raise":
        raise ValueError(
            f"expected representations that differ between images, got the same one for all images from {names}, so that D and G "
            f"have denominator 0; constant='nan' gives these layers rows of NaN"
        )
    if names:
        message = f"rows of NaN, since the representation is the same for all images: {names}"
        warnings.warn(message if len(message) <= 200 else f"{message[:197]}...", stacklevel=4)


def _peeked(probes: Probes | Iterable[Probes]) -> tuple[Probes | Iterable[Probes], Any]:
    """The probes, and their first batch; an iterator can be read once."""
    if isinstance(probes, Probes):
        return probes, probes
    batches = iter(probes)
    first = next(batches, None)
    if isinstance(probes, Iterator):
        probes = (part for part in itertools.chain([first], batches) if part is not None)
    return probes, first


def _warn_unless_function(departure: str | None) -> None:
    if departure == "random":
        warnings.warn(
            "the model draws random numbers in evaluation mode, so that D and G measure these and R is about 1: pass "
            "training=self.training to functional.dropout and the like",
            stacklevel=4,
        )
    elif departure == "company":
        warnings.warn("the output for an image depends on the other images of its batch, and so do D and G", stacklevel=4)


def measure_sensitivity(
    model: nn.Module,
    probes: Probes | Iterable[Probes],
    layers: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    constant: Literal["nan", "raise"] = "nan",
    batch_norm: Literal["running", "per_version"] = "running",
    output: str | Callable[[Any], Any] | None = None,
    store: RepresentationStore | None = None,
) -> "pd.DataFrame":
    """Measure D, G and R of every layer of a network (paper, Eq. 1).

    The network is in evaluation mode during the measurement and gets its modes back afterwards; weights and buffers
    stay as they are. If torch.compile, DataParallel or DistributedDataParallel wraps the network, the network itself is measured.
    On a CPU, a convolutional network in float32 gets its images in channels_last, which is faster, if it takes them so.

    Args:
        model: any module that takes the probes' images; the probes go to its device and dtype.
        probes: from :func:`relstab.make_probes`, or an iterable of such batches. The standard errors of D and G assume that the
            order of the images carries no information. Probes are shuffled; an iterable is used in its own order.
        layers: a name or several: of modules in ``model.named_modules()``, "input" and "output"; or shell patterns, which select
            among the default rows. These are the input, every module without children, every activation function
            (``layer1.0.relu(2)`` is the second relu in ``layer1.0``), and the output, except those that return nothing by image
            in every batch (a warning names them). A module that is called several times has one row per call. "paper" and
            "blocks" find layers, see :func:`relstab.find_layers`; rows of "paper" are the calls that follow weights.
        batch_size: images that go through the network at a time (each in three versions); by default as many as keep the
            activations of the widest layer below 48 MiB on a CPU and 256 MiB on a GPU, but at least 8.
        constant: what to do with layers whose representation is the same for all images, so that the denominator is 0: "nan"
            returns rows of NaN and warns once, "raise" raises a ValueError.
        batch_norm: "running" normalises all images by the running statistics. "per_version" normalises x, tau x and x + eta each
            by the mean and the biased variance of their own P images, as the reference measures untrained networks, see
            :class:`relstab.batch_norm.VersionNorms`. Images whose activations fit into 512 MiB per layer (4 GiB on a GPU) take
            one more pass; more images take one pass per batch norm. The probes must be Probes or a list of them.
        output: the part of the model's output that is measured, if it returns several: a key or attribute, such as "logits", or a
            function of what it returns. By default all its tensors together.
        store: object that also gets the representations; none by default. ``relstab.measure_sensitivity(keep_activations=path)``
            writes them to a file.

    Returns:
        One row per layer, in order of execution, with columns

        - layer, kind: name and class of the module;
        - index, depth: k from 0 (the input) to K (the output), and k / K; with ``layers``, the position among the rows;
        - D, G, R and their standard errors D_sem, G_sem, R_sem (delta method over the images);
        - denominator: mean of |f(x1) - f(x2)|^2 over all pairs of images;
        - D_median, G_median, R_median: of the output, with medians in place of means, see
          :func:`relstab.layer_sums.median_sensitivities`; NaN for the other layers.

        Its ``attrs`` say P, displacement, cutoff and interpolation of the probes, batch_norm, and the versions of relstab and
        torch. ``paper_layers`` among them are the name and call of the layers that were found, see :func:`relstab.find_layers`.

    Raises:
        ValueError: fewer than two images, a layer that is unknown or not called, activations that are not finite, a scripted or
            exported model.
    """
    if constant not in ("nan", "raise"):
        raise ValueError(f"expected constant to be 'nan' or 'raise', got {constant!r}")
    model = unwrapped(model)
    probes, first = _peeked(probes)
    which: Any = layers if layers in ("paper", "blocks") else "paper" if layers is None else None
    trial, found, rows = None, None, layers
    with kept_memory(placed(model, torch.empty(0)).device):
        if isinstance(first, Probes):
            trial = Trial(model, first.images, which, check=True, required=layers in ("paper", "blocks"))
            _warn_unless_function(trial.departure)
            rows = trial.rows() if layers in ("paper", "blocks") else layers
        elif layers in ("paper", "blocks"):
            raise ValueError(f"expected Probes or an iterable of Probes, got {type(first).__name__}")
        sums = accumulate_sums(model, probes, rows, batch_size, store, batch_norm, output, trial)
        if trial is not None:
            sums, found = trial.of_layers(sums)
    _report_constants(sums, constant)
    import pandas as pd  # here, because a job that only writes HDF5 does not need it

    table = pd.DataFrame(sensitivity_rows(sums), columns=COLUMNS)
    table.attrs.update(probes.made if isinstance(probes, Probes) else {})
    table.attrs.update(P=len(sums[0].diffeo) if sums else 0, batch_norm=batch_norm)
    table.attrs.update(relstab_version=relstab.__version__, torch_version=str(torch.__version__))
    if found:
        table.attrs["paper_layers"] = [list(layer) for layer in found]
    return table
