"""Convolutional networks: VGG (Simonyan and Zisserman 2014, arXiv 1409.1556), with and without normalisation, ResNets.

The residual networks have the stem for small images (He et al. 2015, arXiv 1512.03385, section 4.2). A residual block
is one unit: its shortcut starts and ends inside it, so that no stage boundary cuts it.

On images of height 1 the networks of VGG's kind have 1x3 kernels and pool along the width alone: the outer rows of a
3x3 kernel would see nothing but padding.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from layerpipe2.lab.networks.layers import channels_last, conv_bn_relu, conv_relu, convolution, pooled_head

SMALL_BLOCKS = ((1, 1), (2, 2), (4, 4), (8, 8))
SHALLOW_BLOCKS = ((1,), (2,), (4,), (8,))
VGG16_BLOCKS = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of the convolutions, block by block, as multiples of the width: VGG-16 is configuration D of the paper."""


def _vgg_units(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: int,
    blocks: Sequence[Sequence[int]],
    unit: Callable[[int, int, bool], nn.Sequential],
    *,
    pool_last: bool = False,
) -> list[nn.Module]:
    """The convolutions of the blocks, each a ``unit`` of so many channels in and out, and the head.

    A block ends with 2x2 max pooling, as long as both sides have 2 pixels or more; before the head's global average
    only if ``pool_last``. Its windows do not overlap, so that its gradient is deterministic on a GPU too. The average
    replaces VGG's three large linear layers, hence any input of at least 1x1 pixels works. Images of height 1 have 1x3
    kernels and 1x2 pooling.
    """
    channels, height, width_px = input_shape
    flat = height == 1
    units: list[nn.Module] = []
    for i, factors in enumerate(blocks, 1):
        for factor in factors:
            units.append(unit(channels, factor * width, flat))
            channels = factor * width
        if (pool_last or i < len(blocks)) and (flat or height >= 2) and width_px >= 2:
            units[-1] = nn.Sequential(units[-1], nn.MaxPool2d((1, 2) if flat else 2))
            height, width_px = height // 2, width_px // 2
    return channels_last([*units, pooled_head(channels, num_classes)])


vgg = partial(_vgg_units, blocks=SMALL_BLOCKS, unit=conv_bn_relu)
"""Eight conv-BN-ReLU units of 1, 1, 2, 2, 4, 4, 8, 8 times ``width`` channels and a head: 9 units."""
cnn = partial(_vgg_units, blocks=SMALL_BLOCKS, unit=conv_relu)
""":func:`vgg` without batch normalisation, with biases: 9 units."""
vgg_small = partial(_vgg_units, blocks=SHALLOW_BLOCKS, unit=conv_bn_relu)
""":func:`vgg` with one convolution of 1, 2, 4 and 8 times ``width`` channels each: 5 units."""
cnn_small = partial(_vgg_units, blocks=SHALLOW_BLOCKS, unit=conv_relu)
""":func:`vgg_small` without batch normalisation, with biases: 5 units."""
vgg16 = partial(_vgg_units, blocks=VGG16_BLOCKS, unit=conv_bn_relu, pool_last=True)
"""VGG-16's thirteen conv-BN-ReLU units and a head: 14 units; width 64 gives its channels."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)).

    Maps (N, channels_in, H, W) to (N, channels_out, ceil(H / stride), ceil(W / stride)). The shortcut is the
    identity where the shape stays, otherwise a 1x1 convolution with batch normalisation (option B).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(channels_in, channels_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = convolution(channels_out, channels_out, 3)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                convolution(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch of feature maps; the input is left as it is."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(residual + self.shortcut(x))
        return out


def _residual_units(
    input_shape: tuple[int, ...], num_classes: int, width: int, factors: Sequence[int]
) -> list[nn.Module]:
    """Stem, two blocks per channel factor (the first one of each later factor halves the size), head."""
    units: list[nn.Module] = [conv_bn_relu(input_shape[0], width)]
    channels = width
    for i, factor in enumerate(factors):
        units.append(BasicBlock(channels, factor * width, stride=1 if i == 0 else 2))
        channels = factor * width
        units.append(BasicBlock(channels, channels, stride=1))
    return channels_last([*units, pooled_head(channels, num_classes)])


resnet18 = partial(_residual_units, factors=(1, 2, 4, 8))
"""ResNet-18 with a 3x3 stem and no max pooling: stem, 8 basic blocks, head = 10 units.

Channels are 1, 2, 4, 8 times ``width``; width 64 and 100 classes give the usual 11,220,132 parameters.
"""
resnet_small = partial(_residual_units, factors=(1, 2, 4))
"""ResNet-14 for quick runs: stem, 6 basic blocks, head = 8 units. Channels are 1, 2, 4 times ``width``."""
