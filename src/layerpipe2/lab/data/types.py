"""The values that the data functions pass on.

Images are uint8 (N, C, H, W) with labels int64 (N,). Texts are windows of token numbers, uint8 (N, T), with the next
tokens int64 (N, T) for labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class Arrays(NamedTuple):
    """What a reader returns, not verified yet: images (N, C, H, W) and labels (N,) of both parts."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in memory, in an order that does not depend on where it was read from.

    ``source`` names the files that were read. ``num_classes`` of a text is the size of its vocabulary. ``mean`` and
    ``std`` are those of the pixels of ``x_train / 255``, per channel; a text has none. ``flippable`` says that a mirror
    image still belongs to its class.
    """

    name: str
    source: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flippable: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image, in pixels, or (T,), tokens of a window."""
        return tuple(self.x_train.shape[1:])


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """One part of a data set: images ``x`` uint8 (N, C, H, W), labels ``y`` int64 (N,); or windows, both (N, T)."""

    x: Tensor
    y: Tensor
    flippable: bool = False

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test part; validation is empty for a fraction of 0."""

    train: TensorSplit
    validation: TensorSplit
    test: TensorSplit
