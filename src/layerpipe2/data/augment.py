"""Random crop and mirror of a whole batch at once, on the batch's device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def crop_and_mirror(images: Tensor, dy: Tensor, dx: Tensor, mirror: Tensor, padding: int) -> Tensor:
    """Pad with zeros, cut a window of the old size out of each image, and mirror some of the windows.

    Args:
        images: (B, C, H, W), any type.
        dy: row of the window's first pixel in the padded image, int64 (B,), from 0 to 2 * padding.
        dx: its column, likewise.
        mirror: bool (B,), whether to flip left and right.
        padding: pixels added at each side; dy = dx = padding is the image itself.

    Returns:
        The windows (B, C, H, W). One gather of flat pixel indices, hence no synchronisation with a GPU.
    """
    batch, channels, height, width = images.shape
    padded = pad(images, (padding, padding, padding, padding))
    rows = dy[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = dx[:, None] + torch.where(mirror[:, None], width - 1 - columns, columns)
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    index = pixels.reshape(batch, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view(images.shape)
