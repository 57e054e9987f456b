"""The stage of the filter spectra: a saved network in, gamma of its convolutions out."""

from pathlib import Path

from relstab.files.network import read_filters
from relstab.files.spectrum import write_spectra
from relstab.filter_spectra import layer_spectra

__all__ = ["analyse_filters"]


def analyse_filters(path: str | Path, network: str | Path, weights: str = "last") -> None:
    """Spectra of every convolution with F x F > 1 sites of a saved network, at initialization and after training.

    Args:
        path: of the HDF5 file of spectra.
        network: file of :func:`relstab.save_network`.
        weights: which weights are the trained ones, "last" or "best".
    """
    spectra = {}
    for state, saved in (("init", "init"), ("trained", weights)):
        key, filters = read_filters(network, saved)
        spectra[state] = layer_spectra(filters)
    write_spectra(path, key, spectra, {"weights": weights})
