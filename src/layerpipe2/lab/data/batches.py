"""Batches from tensors in memory, on the training device.

Order and augmentation of an epoch are functions of (seed, epoch) alone. They are drawn on the CPU, once per
epoch, and sent to the device before the first batch: the batches are the same on every device, and none of them
makes the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from layerpipe2.engine.frozen_random import frozen_generator
from layerpipe2.errors import UserError, integer
from layerpipe2.lab.data.types import TensorSplit


class BatchLoader:
    """Iterable over (x, y): x normalised (B, C, H, W) of ``dtype``, y int64 (B,), both on ``device``.

    Tokens have no mean: x is int64 (B, T) then, and so is y.

    Works as a Lightning data loader: Lightning calls ``set_epoch`` of `sampler`, and keeps the position in its
    checkpoints (`state_dict`), so that a run resumed after any batch sees what the uninterrupted run would have
    seen. Without Lightning call `set_epoch` before every epoch, otherwise each repeats the same batches.

    Args:
        split: images and labels; they are moved to ``device`` as uint8 and stay there.
        batch_size: images per batch; the last batch of an epoch may be smaller.
        mean, std: per channel, of images scaled to [0, 1]: x = (image / 255 - mean) / std. Empty for tokens.
        seed: of order and augmentation.
        shuffle: whether to draw a new order every epoch.
        augment: random crop after padding by height // 8 zero pixels, and a mirror image for half of the images
            if the split is ``flippable``.
        drop_last: leave out the last batch if it is smaller.
        device: where the data is kept.
        dtype: floating-point type of x.

    Raises:
        UserError: a size or seed out of range, or not one batch in an epoch.
    """

    def __init__(
        self,
        split: TensorSplit,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        shuffle: bool = False,
        augment: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check(split, batch_size, mean, std, seed)
        if augment and split.x.ndim != 4:
            raise UserError("augment crops and mirrors images, and this data is text; set augment to false")
        self.batch_size, self.seed = batch_size, seed
        self.shuffle, self.augment, self.drop_last = shuffle, augment, drop_last
        self.flippable = split.flippable
        self.device, self.dtype = torch.device(device), dtype
        self.x, self.y = split.x.to(self.device), split.y.to(self.device)
        self._mean = self._per_channel([255 * m for m in mean])
        self._scale = self._per_channel([1 / (255 * s) for s in std])
        self._padding = split.x.shape[-2] // 8 if augment else 0
        self.epoch = 0
        self._first = 0  # batch at which the next iteration begins: above 0 only after load_state_dict
        self._yielded = 0
        if not len(self):
            what = f"batch size {batch_size} with drop_last leaves no batch of {len(split)} images"
            raise UserError(f"{what}; choose a batch size of at most {len(split)}")

    def _per_channel(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.y) // self.batch_size if self.drop_last else -(-len(self.y) // self.batch_size)

    @property
    def sampler(self) -> BatchLoader:
        """The object whose ``set_epoch`` Lightning calls: this one."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None: Lightning asks every validation loader that has a ``sampler`` for it."""
        return

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (counted from 0) that the next iteration yields."""
        if epoch != self.epoch:
            self.epoch, self._first, self._yielded = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Position: the epoch, and how many of its batches were yielded."""
        return {"epoch": self.epoch, "yielded": self._yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration, if it is of the saved epoch, begin after the batches already yielded."""
        self.epoch, self._first, self._yielded = state["epoch"], state["yielded"], state["yielded"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the chosen epoch."""
        order, windows = self._plan(self.epoch)
        first, self._first = self._first, 0
        for i in range(first, len(self)):
            self._yielded = i + 1
            at = slice(i * self.batch_size, (i + 1) * self.batch_size)
            yield self._batch(order[at], None if windows is None else windows[:, at])

    def _plan(self, epoch: int) -> tuple[Tensor, Tensor | None]:
        """Draw an epoch's order, and in that order dy, dx and mirror of every image's window, int64 (3, N)."""
        generator, count = frozen_generator("batches", self.seed, epoch), len(self.y)
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        windows = None
        if self.augment:
            offsets = generator.randint(2 * self._padding + 1, size=(2, count), dtype=np.int64)
            mirror = generator.random_sample(count) < (0.5 if self.flippable else 0.0)
            windows = torch.from_numpy(np.vstack([offsets, mirror])).to(self.device)
        return torch.from_numpy(order).to(self.device), windows

    def _batch(self, which: Tensor, windows: Tensor | None) -> tuple[Tensor, Tensor]:
        """The batch of these images, cropped to their windows if they have some."""
        x, y = self.x.index_select(0, which), self.y.index_select(0, which)
        if windows is not None:
            dy, dx, mirror = windows
            x = crop_and_mirror(x, dy, dx, mirror.bool(), self._padding)
        if x.ndim != 4:
            return x.long(), y
        return x.to(self.dtype).sub_(self._mean).mul_(self._scale), y


def _check(split: TensorSplit, batch_size: int, mean: Sequence[float], std: Sequence[float], seed: int) -> None:
    """Refuse what cannot give batches."""
    integer(batch_size, "batch size", 1)
    integer(seed, "data seed", 0)
    if not len(split):
        raise UserError("this part of the data has no images; choose a validation fraction above 0")
    channels = split.x.shape[1] if split.x.ndim == 4 else 0
    if len(mean) != channels or len(std) != channels or not all(s > 0 for s in std):
        what = f"mean {mean} and std {std} must have {channels} entries, std above 0"
        raise UserError(f"{what}; see layerpipe2.lab.data.Data")


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
