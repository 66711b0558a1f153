"""Parts that several networks share: initialised layers, convolutional units and the classifying head.

Initialisation draws from torch's global random generator: the caller seeds. Every layer that a ReLU
follows gets Kaiming normal weights, variance 2 / fan (He et al. 2015, arXiv 1502.01852), and zero bias:
PyTorch's default for ``nn.Linear`` has variance 1 / (3 fan_in), so that every layer followed by a ReLU
divides the signal's mean square by 6, which starves a deep network that has no batch normalisation.

No layer works in place. A unit's output is the next unit's saved input; overwriting it would change another
stage's backward pass.
"""

from typing import cast

import torch
from torch import Tensor, nn


def relu_linear(features_in: int, features_out: int) -> nn.Linear:
    """Linear layer that a ReLU follows: Kaiming normal weights with variance 2 / fan_in, zero bias."""
    linear = nn.Linear(features_in, features_out)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear


def output_linear(features_in: int, num_classes: int) -> nn.Linear:
    """Linear layer for the logits: normal weights of variance 1 / fan_in (no ReLU follows), zero bias."""
    linear = nn.Linear(features_in, num_classes)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
    nn.init.zeros_(linear.bias)
    return linear


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1, flat: bool = False) -> nn.Conv2d:
    """Convolution without bias (batch normalisation follows) that keeps the size at stride 1.

    The kernel has ``kernel`` x ``kernel`` pixels, or 1 x ``kernel`` if ``flat``, for images of height 1.

    Kaiming normal weights over fan_out, as in the residual networks of He et al. 2015 (arXiv 1512.03385).
    """
    size = (1 if flat else kernel, kernel)
    padding = (size[0] // 2, size[1] // 2)
    conv = nn.Conv2d(channels_in, channels_out, size, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def conv_bn_relu(channels_in: int, channels_out: int, flat: bool = False) -> nn.Sequential:
    """3x3 (``flat``: 1x3) convolution, batch normalisation, ReLU: (N, channels_in, H, W) -> (N, channels_out, H, W)."""
    return nn.Sequential(
        convolution(channels_in, channels_out, 3, flat=flat), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=False)
    )


def conv_relu(channels_in: int, channels_out: int, flat: bool = False) -> nn.Sequential:
    """3x3 (``flat``: 1x3) convolution with bias, ReLU: (N, channels_in, H, W) -> (N, channels_out, H, W).

    Kaiming normal weights over fan_in keep the size of the signal, which nothing else normalises.
    """
    conv = nn.Conv2d(channels_in, channels_out, (1, 3) if flat else 3, padding=(0, 1) if flat else 1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(cast(Tensor, conv.bias))
    return nn.Sequential(conv, nn.ReLU(inplace=False))


def pooled_head(channels: int, num_classes: int) -> nn.Sequential:
    """Global average pooling and a linear layer: (N, channels, H, W) -> logits (N, num_classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), output_linear(channels, num_classes))


def channels_last(units: list[nn.Module]) -> list[nn.Module]:
    """The units, whose convolutions keep the channels of a pixel side by side in memory: (N, H, W, C).

    Pooling and normalisation on a CPU are faster so, evaluations two to three times; convolutions need no reordering.
    """
    return [unit.to(memory_format=torch.channels_last) for unit in units]  # type: ignore[call-overload]
