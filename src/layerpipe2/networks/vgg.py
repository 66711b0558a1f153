"""VGG networks (Simonyan and Zisserman 2014, arXiv 1409.1556) with batch normalisation: a small one, and VGG-16."""

from collections.abc import Sequence

from torch import nn

from layerpipe2.networks.layers import conv_bn_relu, pooled_head

SMALL_BLOCKS = ((1, 1), (2, 2), (4, 4), (8, 8))
VGG16_BLOCKS = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of the convolutions, block by block, as multiples of the width: VGG-16 is configuration D of the paper."""


def vgg(input_shape: tuple[int, ...], num_classes: int, width: int) -> list[nn.Module]:
    """Eight conv-BN-ReLU units of 1, 1, 2, 2, 4, 4, 8, 8 times ``width`` channels and a head: 9 units."""
    return _units(input_shape, num_classes, width, SMALL_BLOCKS, pool_last=False)


def vgg16(input_shape: tuple[int, ...], num_classes: int, width: int) -> list[nn.Module]:
    """VGG-16's thirteen conv-BN-ReLU units and a head: 14 units; width 64 gives its channels."""
    return _units(input_shape, num_classes, width, VGG16_BLOCKS, pool_last=True)


def _units(
    input_shape: tuple[int, ...], num_classes: int, width: int, blocks: Sequence[Sequence[int]], *, pool_last: bool
) -> list[nn.Module]:
    """The convolutions of the blocks and the head.

    A block ends with 2x2 max pooling, as long as both sides have 2 pixels or more; before the head's global average
    only if ``pool_last``. Its windows do not overlap, so that its gradient is deterministic on a GPU too. The average
    replaces VGG's three large linear layers, hence any input of at least 1x1 pixels works.
    """
    channels, height, width_px = input_shape
    units: list[nn.Module] = []
    for i, factors in enumerate(blocks, 1):
        for factor in factors:
            units.append(conv_bn_relu(channels, factor * width))
            channels = factor * width
        if (pool_last or i < len(blocks)) and min(height, width_px) >= 2:
            units[-1] = nn.Sequential(units[-1], nn.MaxPool2d(2))
            height, width_px = height // 2, width_px // 2
    return [*units, pooled_head(channels, num_classes)]
