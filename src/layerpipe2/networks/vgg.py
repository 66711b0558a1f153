"""A small VGG-style network (Simonyan and Zisserman 2014, arXiv 1409.1556) with batch normalisation."""

from __future__ import annotations

from torch import nn

from layerpipe2.networks.layers import conv_bn_relu, pooled_head

CHANNEL_FACTORS = (1, 2, 4, 8)
UNITS_PER_FACTOR = 2


def vgg(input_shape: tuple[int, int, int], num_classes: int, width: int) -> list[nn.Module]:
    """Eight conv-BN-ReLU units of 1, 1, 2, 2, 4, 4, 8, 8 times ``width`` channels and a head: 9 units.

    The second unit of each of the first three pairs ends with 2x2 max pooling, as long as both sides have
    2 pixels or more. Its windows do not overlap, so that its gradient is deterministic on a GPU too. A global
    average replaces VGG's three large linear layers, hence any input of at least 1x1 pixels works.
    """
    channels, height, width_px = input_shape
    units: list[nn.Module] = []
    for factor in CHANNEL_FACTORS:
        for _ in range(UNITS_PER_FACTOR):
            units.append(conv_bn_relu(channels, factor * width))
            channels = factor * width
        if factor != CHANNEL_FACTORS[-1] and min(height, width_px) >= 2:
            units[-1] = nn.Sequential(units[-1], nn.MaxPool2d(2))
            height, width_px = height // 2, width_px // 2
    return [*units, pooled_head(channels, num_classes)]
