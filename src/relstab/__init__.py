"""Measure how neural networks lose spatial information.

The public names are loaded when they are first used, so that what needs no torch (checking a config, drawing a figure)
starts at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relstab.activations import find_layers
    from relstab.architectures import ARCHITECTURES, build_model, own_architectures
    from relstab.batch_norm import estimate_batch_statistics
    from relstab.channel_shuffle import shuffle_channels
    from relstab.config import Config, load_config
    from relstab.correlation import bootstrap_log_correlation, log_correlation
    from relstab.diffeomorphism import deform, displacement_field, temperature, temperature_range, typical_displacement
    from relstab.figures.plot import plot_layers
    from relstab.files.network import load_network, save_network
    from relstab.filter_spectra import filter_spectrum, laplacian_modes
    from relstab.interpolation import warp
    from relstab.noise import add_noise, isotropic_noise
    from relstab.perturbations import lie_derivatives, measure_perturbations, perturb
    from relstab.probes import Probes, make_probes
    from relstab.sensitivity import measure_sensitivity
    from relstab.training.train import train_network

__version__ = "0.1.0"

_MODULES = {
    "activations": ("find_layers",),
    "architectures": ("ARCHITECTURES", "build_model", "own_architectures"),
    "batch_norm": ("estimate_batch_statistics",),
    "channel_shuffle": ("shuffle_channels",),
    "config": ("Config", "load_config"),
    "correlation": ("bootstrap_log_correlation", "log_correlation"),
    "diffeomorphism": ("deform", "displacement_field", "temperature", "temperature_range", "typical_displacement"),
    "filter_spectra": ("filter_spectrum", "laplacian_modes"),
    "interpolation": ("warp",),
    "noise": ("add_noise", "isotropic_noise"),
    "perturbations": ("lie_derivatives", "measure_perturbations", "perturb"),
    "probes": ("Probes", "make_probes"),
    "sensitivity": ("measure_sensitivity",),
    "figures.plot": ("plot_layers",),
    "files.network": ("load_network", "save_network"),
    "training.train": ("train_network",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ARCHITECTURES",
    "Config",
    "Probes",
    "add_noise",
    "bootstrap_log_correlation",
    "build_model",
    "deform",
    "displacement_field",
    "estimate_batch_statistics",
    "filter_spectrum",
    "find_layers",
    "isotropic_noise",
    "laplacian_modes",
    "lie_derivatives",
    "load_config",
    "load_network",
    "log_correlation",
    "make_probes",
    "measure_perturbations",
    "measure_sensitivity",
    "own_architectures",
    "perturb",
    "plot_layers",
    "save_network",
    "shuffle_channels",
    "temperature",
    "temperature_range",
    "train_network",
    "typical_displacement",
    "warp",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
