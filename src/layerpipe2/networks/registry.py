"""The networks by name. A network is a flat list of units, called one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from layerpipe2.errors import UserError
from layerpipe2.networks.mlp import mlp
from layerpipe2.networks.resnet import resnet18, resnet_small
from layerpipe2.networks.vgg import vgg

Builder = Callable[[tuple[int, int, int], int, int], list[nn.Module]]


@dataclass(frozen=True)
class NetworkInfo:
    """A network: what it is, its default width, its builder (input_shape, num_classes, width) -> units."""

    description: str
    default_width: int
    builder: Builder


NETWORKS: dict[str, NetworkInfo] = {
    "mlp": NetworkInfo("fully connected: 8 hidden layers of `width` ReLU units, output; 9 units", 128, mlp),
    "vgg": NetworkInfo("VGG-style: 8 conv-BN-ReLU of width to 8*width channels, head; 9 units", 32, vgg),
    "resnet18": NetworkInfo("ResNet-18 for small images: stem, 8 basic blocks, head; 10 units", 64, resnet18),
    "resnet-small": NetworkInfo("narrow ResNet-14: stem, 6 basic blocks, head; 8 units", 16, resnet_small),
}


def build(
    name: str, *, input_shape: tuple[int, int, int], num_classes: int, width: int | None = None
) -> list[nn.Module]:
    """Build a network as a flat list of units, each with at least one parameter.

    Weights are drawn from torch's global random generator: seed it first (`torch.manual_seed`).

    Args:
        name: a key of `NETWORKS`.
        input_shape: (channels, height, width) of one image, in pixels.
        num_classes: number of logits.
        width: units of a hidden layer (mlp) or channels of the first units (others); None: the default.

    Returns:
        The units, input side first: float images (N, C, H, W) -> ... -> logits (N, num_classes).

    Raises:
        UserError: unknown name, or a size that is not a positive integer.
    """
    if name not in NETWORKS:
        raise UserError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    info = NETWORKS[name]
    width = info.default_width if width is None else width
    if len(input_shape) != 3:
        raise UserError(f"network {name}: input shape {input_shape!r}; give (channels, height, width)")
    sizes = {"width": width, "num_classes": num_classes, **dict(zip("CHW", input_shape, strict=True))}
    for label, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"network {name}: {label} is {size!r}; give an integer of at least 1")
    return info.builder(input_shape, num_classes, width)
