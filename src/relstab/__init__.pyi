from .activations import find_layers as find_layers
from .architectures import ARCHITECTURES as ARCHITECTURES
from .architectures import build_model as build_model
from .architectures import own_architectures as own_architectures
from .batch_norm import estimate_batch_statistics as estimate_batch_statistics
from .channel_shuffle import shuffle_channels as shuffle_channels
from .config import Config as Config
from .config import load_config as load_config
from .diffeomorphism import deform as deform
from .diffeomorphism import displacement_field as displacement_field
from .diffeomorphism import temperature as temperature
from .diffeomorphism import temperature_range as temperature_range
from .diffeomorphism import typical_displacement as typical_displacement
from .figures.plot import plot_layers as plot_layers
from .files.activations import measure_sensitivity as measure_sensitivity
from .files.network import load_network as load_network
from .files.network import save_network as save_network
from .filter_spectra import filter_spectrum as filter_spectrum
from .filter_spectra import laplacian_modes as laplacian_modes
from .interpolation import warp as warp
from .noise import add_noise as add_noise
from .noise import isotropic_noise as isotropic_noise
from .perturbations import lie_derivatives as lie_derivatives
from .perturbations import measure_perturbations as measure_perturbations
from .perturbations import perturb as perturb
from .probes import Probes as Probes
from .probes import make_probes as make_probes
from .probes import probes_of as probes_of
from .tables.correlation import bootstrap_log_correlation as bootstrap_log_correlation
from .tables.correlation import log_correlation as log_correlation
from .training.train import train_network as train_network

__version__: str
__all__: list[str]
