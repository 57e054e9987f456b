"""Mean and standard deviation of the pixels of a data set, exactly, from how often each of the 256 values occurs."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["pixel_histogram", "pixel_moments"]


def pixel_histogram(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many pixels of each value the images [N, C, n, n] have, by channel: [C, 256]."""
    count, channels, rows, cols = images.shape
    total = np.zeros((channels, 256), np.int64)
    # A million pixels at a time: counting makes eight bytes of each.
    step = max(1, (1 << 20) // max(1, rows * cols))
    for start in range(0, count, step):
        for channel in range(channels):
            total[channel] += np.bincount(images[start : start + step, channel].ravel(), minlength=256)
    return total


def pixel_moments(histogram: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation by channel, [C] each, of pixels scaled to [0, 1], out of :func:`pixel_histogram`."""
    values = np.arange(256) / 255
    share = histogram / histogram.sum(1, keepdims=True)
    mean = share @ values
    return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
