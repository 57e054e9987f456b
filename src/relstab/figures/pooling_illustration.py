"""Spatial and channel pooling on small images, in numbers (paper, section 2).

Spatial pooling: layers f_k(x) = ReLU(w * f_{k-1}(x)) with the same 3 x 3 filter w, for one lit pixel and for the same moved by
one pixel. With the homogeneous filter, which sums over its window, the two overlap more in every layer; with the filter of
highest frequency, the last mode of the grid Laplacian, they never do.

Channel pooling: two channels whose filters are one filter and its rotation by 90 degrees, for an edge and for the same edge
rotated. Each channel, averaged over sites after ReLU, answers to one orientation, and their sum to both alike.

How much a representation f changes is measured relative to images that have nothing in common, for which it is 1:

    D = |f(tau x) - f(x)|^2 / (|f(x)|^2 + |f(tau x)|^2).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LAYERS", "Maps", "channel_maps", "relative_change", "spatial_maps"]

Map = NDArray[np.float64]
Maps = dict[tuple[str, str], Map]

LAYERS = (0, 1, 2, 4)
"""k of the layers that are shown of spatial pooling; 0 is the image."""

_SIZE = 12
# Modes of the Laplacian on three sites: the constant one and that of highest frequency.
_CONSTANT, _ALTERNATING = np.ones(3), np.array([1.0, -2.0, 1.0])
_SPATIAL = {
    "homogeneous": np.outer(_CONSTANT, _CONSTANT) / 9,
    "high frequency": np.outer(_ALTERNATING, _ALTERNATING) / 9,
}
# A rotation by 180 degrees leaves this filter as it is: one by 90 degrees changes it for the other and back.
_ORIENTED = -np.outer(_ALTERNATING, _CONSTANT) / 6


def _layer(image: Map, weights: Map) -> Map:
    """ReLU of the correlation of an image with a 3 x 3 filter; beyond its edges, the image continues as at the edge."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(image, 1, mode="edge"), (3, 3))
    return np.asarray(np.maximum(np.einsum("ijkl,kl->ij", around, weights), 0))


def relative_change(before: ArrayLike, after: ArrayLike) -> float:
    """D of two versions of a representation, see above; NaN where both are 0."""
    one, other = np.asarray(before, float), np.asarray(after, float)
    norms = float((one**2).sum() + (other**2).sum())
    return float(((other - one) ** 2).sum()) / norms if norms else float("nan")


def spatial_maps() -> Maps:
    """Two filters and their layers, "homogeneous, k = 0" and so on, by item and version: "filter", "x" or "moved"."""
    lit = np.zeros((_SIZE, _SIZE))
    lit[_SIZE // 2 - 1, _SIZE // 2 - 1] = 1
    maps: Maps = {}
    for name, weights in _SPATIAL.items():
        maps[name, "filter"] = weights
        for version, image in (("x", lit), ("moved", np.roll(lit, 1, axis=1))):
            values = image
            for k in range(max(LAYERS) + 1):
                if k in LAYERS:
                    maps[f"{name}, k = {k}", version] = values
                values = _layer(values, weights)
    return maps


def channel_maps() -> Maps:
    """The image, its two channels and their sum, by item and version: "filter", "x" or "moved"."""
    row, column = np.indices((_SIZE, _SIZE))
    edge = (row + 0.3 * column < 7.5).astype(float)
    filters = {"channel 1": _ORIENTED, "channel 2": np.rot90(_ORIENTED)}
    images = {"x": edge, "moved": np.rot90(edge)}
    maps = {("image", version): image for version, image in images.items()}
    maps |= {(name, "filter"): weights for name, weights in filters.items()}
    for version, image in images.items():
        responses = {name: _layer(image, weights) for name, weights in filters.items()}
        maps |= {(name, version): response for name, response in responses.items()}
        maps["sum of channels", version] = sum(responses.values(), np.zeros_like(image))
    return maps
