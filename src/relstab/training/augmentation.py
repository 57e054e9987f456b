"""Augmentation of training images, a whole batch at a time on the device where they live."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["crop_and_flip"]


def crop_and_flip(images: Tensor, crop_padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crops out of zero padding and horizontal flips, one draw per image, as one gather over the batch.

    Args:
        images: [N, C, n, n], of any dtype; zero is padded, so uint8 images are padded black before they are normalised.
        crop_padding: pixels on each side; 0 for no crops.
        flip: whether half of the images are mirrored.
        generator: of the draws, on any device.

    Returns:
        [N, C, n, n], of the dtype of ``images``.
    """
    if not flip and not crop_padding:
        return images
    count, channels, rows, cols = images.shape
    row = torch.arange(rows, device=images.device).expand(count, -1)
    col = torch.arange(cols, device=images.device).expand(count, -1)
    if flip:
        mirrored = torch.randint(2, (count, 1), generator=generator, device=generator.device).bool().to(images.device)
        col = torch.where(mirrored, col.flip(1), col)
    if crop_padding:
        images = functional.pad(images, [crop_padding] * 4)
        places = 2 * crop_padding + 1
        shift = torch.randint(places, (2, count, 1), generator=generator, device=generator.device).to(images.device)
        row, col = row + shift[0], col + shift[1]
    pixel = row[:, :, None] * images.shape[3] + col[:, None, :]
    chosen = images.flatten(2).gather(2, pixel.view(count, 1, -1).expand(-1, channels, -1))
    return chosen.view(count, channels, rows, cols)
