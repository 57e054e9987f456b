"""Beyond the paper: what a deformation is, at three cutoffs: the displacement field as arrows, and the image that it deforms."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from relstab.figures.style import WIDTH, show_image

__all__ = ["draw"]

# The field is one draw of its modes; a larger cutoff adds modes to it.
_SEED = 3
_ARROWS = 14


def draw(
    probe: dict[str, NDArray[np.float32]], displacement: float = 1.0, cutoff: int = 3, interpolation: str = "bilinear"
) -> Figure:
    """An image under deformations with three cutoffs c: the cutoff of the run, twice and three times as many modes. Above, the
    displacements of some of the pixels as arrows, to scale; below, the deformed image. The typical displacement is
    that of the run, or the largest at which the field does not fold the image, if that is smaller.

    Args:
        probe: "images", an image [C, n, n].
        displacement, cutoff, interpolation: of the run's probes.
    """
    import torch  # here, because the other figures are drawn without it

    from relstab.diffeomorphism import displacement_field, temperature, temperature_range, typical_displacement
    from relstab.interpolation import warp

    image = torch.from_numpy(np.asarray(probe["images"]))[None]
    size = image.shape[-1]
    cutoffs = [cutoff, 2 * cutoff, 3 * cutoff]
    modes = torch.randn(2, cutoffs[-1], cutoffs[-1], generator=torch.Generator().manual_seed(_SEED))
    figure, axes = plt.subplots(2, 1 + len(cutoffs), figsize=(WIDTH, 3.9))
    axes[0, 0].set_axis_off()
    show_image(axes[1, 0], image[0].numpy())
    axes[1, 0].set_title("$x$", pad=3)
    for column, modes_per_side in zip(axes.T[1:], cutoffs, strict=True):
        largest = typical_displacement(temperature_range(size, modes_per_side)[1], modes_per_side, size)
        delta = min(displacement, largest)
        heat = temperature(delta, modes_per_side, size)
        dx, dy = (displacement_field(part[:modes_per_side, :modes_per_side], size, heat) for part in modes)
        _draw_arrows(column[0], dx.numpy(), dy.numpy())
        column[0].set_title(rf"$c = {modes_per_side}$, $\delta = {delta:.2g}$ pixels", pad=3)
        show_image(column[1], warp(image, dx[None], dy[None], interpolation)[0].numpy())
        column[1].set_title(r"$\tau(x)$", pad=3)
    return figure


def _draw_arrows(ax: Axes, dx: NDArray[np.float32], dy: NDArray[np.float32]) -> None:
    size = len(dx)
    at = np.unique(np.linspace(0, size - 1, min(size, _ARROWS)).round().astype(int))
    columns, rows = np.meshgrid(at, at)
    ax.quiver(columns, rows, dx[rows, columns], dy[rows, columns], angles="xy", scale_units="xy", scale=1, width=0.006)
    ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
