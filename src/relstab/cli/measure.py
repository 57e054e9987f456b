"""Measure networks on a folder of images: a table and a picture."""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import relstab
from relstab.cli.models import NamedModel, load_model
from relstab.data.image_folder import FORMATS, ImageProblem, list_images, read_image
from relstab.files.hdf5 import atomic_path, write_table
from relstab.paper_layers import paper_layers
from relstab.runs.devices import choose_device

__all__ = ["measure_models", "read_images"]


def read_images(folder: Path, number: int, channels: int, size: int, seed: int) -> Tensor:
    """Images of a folder and of those below it, drawn at random, cropped to the middle: [number, channels, size, size], 0 to 1.

    Files that cannot be used are left out with a warning.
    """
    files = [path for path in list_images(folder) if path.suffix.lower() in FORMATS]
    images, problems = [], []
    for place in np.random.default_rng(seed).permutation(len(files)):
        try:
            images.append(read_image(files[place], channels, size, "crop"))
        except ImageProblem as problem:
            problems.append(f"{files[place]} {problem}")
        if len(images) == number:
            break
    if problems:
        warnings.warn(f"{len(problems)} files are left out, the first: {problems[0]}", stacklevel=2)
    if len(images) < 2:
        raise ValueError(f"expected at least 2 images in {folder}, got {len(images)} ({', '.join(sorted(FORMATS))})")
    return torch.from_numpy(np.stack(images)).float() / 255


def _device(name: str) -> torch.device:
    if name == "mps" or (name == "auto" and not torch.cuda.is_available() and torch.backends.mps.is_available()):
        return torch.device("mps")
    return choose_device(name)


def _normalised(images: Tensor, named: NamedModel) -> Tensor:
    if named.normalisation is None or len(named.normalisation[0]) != images.shape[1]:
        mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3)).clamp(min=1e-6)
    else:
        mean, std = (torch.tensor(values) for values in named.normalisation)
    return (images - mean[:, None, None]) / std[:, None, None]


def _untrained_batch_norms(model: torch.nn.Module) -> bool:
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    return any(norm.running_mean is not None and not bool(norm.running_mean.any()) for norm in norms)


def _measured(
    named: NamedModel,
    images: Tensor,
    layers: str,
    displacement: float,
    cutoff: int,
    perturbations: Sequence[str],
    device: torch.device,
    seed: int,
    part: str | None,
) -> pd.DataFrame:
    model = named.model.to(device)
    untrained = _untrained_batch_norms(model)
    if untrained and perturbations:
        relstab.estimate_batch_statistics(model, images.to(device))
    generator = torch.Generator().manual_seed(seed)
    chosen = None if layers == "all" else layers
    if perturbations:
        deformed = relstab.deform(images, displacement, cutoff, generator=torch.Generator().manual_seed(seed))
        norm = torch.linalg.vector_norm((deformed - images).flatten(1), dim=1)
        return relstab.measure_perturbations(model, images, perturbations, norm, chosen, generator=generator, output=part)
    probes = relstab.make_probes(images, displacement, cutoff, generator=generator)
    batch_norm: Literal["running", "per_version"] = "per_version" if untrained else "running"
    return relstab.measure_sensitivity(model, probes, layers=chosen, constant="nan", batch_norm=batch_norm, output=part)


def _panels(table: pd.DataFrame, perturbations: Sequence[str]) -> pd.DataFrame:
    """S of each perturbation as a column."""
    parts = {kind: table[table["perturbation"] == kind] for kind in perturbations}
    wide = next(iter(parts.values()))[["layer", "kind", "index", "depth"]].reset_index(drop=True)
    for kind, part in parts.items():
        wide[[kind, f"{kind}_sem"]] = part[["S", "S_sem"]].to_numpy()
    return wide


def measure_models(
    models: Sequence[str],
    images: Path,
    pretrained: bool = False,
    weights: Path | None = None,
    state: str = "last",
    size: int | None = None,
    number: int = 100,
    layers: str = "paper",
    part: str | None = None,
    displacement: float = 1.0,
    cutoff: int = 3,
    perturbations: Sequence[str] = (),
    shuffle: bool = False,
    device: str = "auto",
    seed: int = 0,
    output: Path | None = None,
) -> Iterator[str]:
    """Measure networks, write ``output``.csv and ``output``.png, and yield what to print; see ``relstab measure --help``."""
    where = _device(device)
    tables: dict[str, pd.DataFrame] = {}
    shuffled: dict[str, pd.DataFrame] = {}
    rows = []
    for reference in models:
        named = load_model(reference, pretrained, weights, state, size, seed)
        name = named.name if named.name not in tables else reference
        pixels = read_images(images, number, named.channels, named.size, seed)
        norms = ""
        if _untrained_batch_norms(named.model):
            norms = (
                f"; batch norm has not seen an image, and uses the statistics of {'these' if perturbations else 'each version'}"
            )
        arguments = (layers, displacement, cutoff, perturbations, where, seed, part)
        tables[name] = _measured(named, _normalised(pixels, named), *arguments)
        rows.append(tables[name].assign(network=name, shuffle="none"))
        if shuffle:
            mixed = NamedModel(name, relstab.shuffle_channels(named.model, seed=seed), normalisation=named.normalisation)
            shuffled[name] = _measured(mixed, _normalised(pixels, named), *arguments)
            rows.append(shuffled[name].assign(network=name, shuffle=str(seed)))
        yield f"{name}: {len(pixels)} images of {named.size} x {named.size} pixels{norms}"
        yield _summary(tables[name], perturbations)
    output = output or Path(re.sub(r"[^\w.-]+", "_", "_".join(tables)))
    table = pd.concat(rows, ignore_index=True)
    table = table[["network", "shuffle", *(column for column in table if column not in ("network", "shuffle"))]]
    csv, png = (output.with_name(output.name + suffix) for suffix in (".csv", ".png"))
    write_table(csv, table)
    yield f"wrote {csv}"
    try:
        if perturbations:
            tables, shuffled = ({name: _panels(t, perturbations) for name, t in group.items()} for group in (tables, shuffled))
        what = tuple(perturbations) or ("D", "G", "R")
        figure = relstab.plot_layers(tables, what, shuffled or None, "all" if perturbations else "paper")
        with atomic_path(png) as temporary:
            figure.savefig(temporary, dpi=150)
        yield f"wrote {png}"
    except ModuleNotFoundError as error:
        yield f"no picture: {error}"


def _summary(table: pd.DataFrame, perturbations: Sequence[str]) -> str:
    if perturbations:
        wide = table.pivot(index=["index", "layer"], columns="perturbation", values="S").reset_index()
        return str(wide.to_string(index=False, float_format="{:.3g}".format))
    try:
        table = paper_layers(table.assign(network=0), ["network"])
    except ValueError:
        table = table.assign(k=table["index"])
    return table[["k", "layer", "D", "G", "R", "R_sem"]].to_string(index=False, float_format="{:.3g}".format)
