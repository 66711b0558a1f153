"""The networks by name. A network is a flat list of units, called one after the other.

Nothing here imports torch before a network is built: whoever mistypes a name is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any, Literal, get_args

from layerpipe2.errors import LARGEST, UserError, integer, look_up, shown

if TYPE_CHECKING:
    from torch import nn

INPUTS = {"images": ("channels", "height", "width"), "text": ("context",)}
"""Kind of input -> what the entries of its shape are."""
Kind = Literal["fully connected", "convolutional", "transformer", "spiking"]


@dataclass(frozen=True)
class NetworkInfo:
    """A network by name.

    Attributes:
        name, label: in options and records, and for readers.
        description: one line of help.
        kind: of its units.
        default_width: features of a hidden layer or a token, or channels of the first units.
        builder: ``module.function`` of this folder: (input shape, number of classes, width) -> units; of a spiking
            network (..., its settings).
        takes: kind of input, a key of :data:`INPUTS`.
    """

    name: str
    label: str
    description: str
    kind: Kind
    default_width: int
    builder: str
    takes: str = "images"


DENSE, CNN, TRANSFORMER, SPIKING = get_args(Kind)
_ROWS = (
    NetworkInfo(
        "mlp",
        "MLP",
        "fully connected: 8 hidden layers of `width` features with ReLU, output; 9 units",
        DENSE,
        128,
        "mlp.mlp",
    ),
    NetworkInfo(
        "cnn",
        "CNN",
        "plain: 8 conv-ReLU of width to 8*width channels, not normalised, head; 9 units",
        CNN,
        32,
        "convolutional.cnn",
    ),
    NetworkInfo(
        "vgg",
        "VGG",
        "VGG-style: 8 conv-BN-ReLU of width to 8*width channels, head; 9 units",
        CNN,
        32,
        "convolutional.vgg",
    ),
    NetworkInfo(
        "cnn-small",
        "CNN (small)",
        "plain: 4 conv-ReLU of width to 8*width channels, not normalised, head; 5 units",
        CNN,
        8,
        "convolutional.cnn_small",
    ),
    NetworkInfo(
        "vgg-small",
        "VGG (small)",
        "VGG-style: 4 conv-BN-ReLU of width to 8*width channels, head; 5 units",
        CNN,
        8,
        "convolutional.vgg_small",
    ),
    NetworkInfo(
        "resnet18",
        "ResNet-18",
        "ResNet-18 for small images: stem, 8 basic blocks, head; 10 units",
        CNN,
        64,
        "convolutional.resnet18",
    ),
    NetworkInfo(
        "resnet-small",
        "ResNet (small)",
        "narrow ResNet-14: stem, 6 basic blocks, head; 8 units",
        CNN,
        16,
        "convolutional.resnet_small",
    ),
    NetworkInfo(
        "vgg16",
        "VGG-16",
        "VGG-16: 13 conv-BN-ReLU of width to 8*width channels, head; 14 units",
        CNN,
        64,
        "convolutional.vgg16",
    ),
    NetworkInfo(
        "vit",
        "ViT",
        "vision transformer: patches, 8 blocks of `width` features, head; 10 units",
        TRANSFORMER,
        192,
        "transformer.vit",
    ),
    NetworkInfo(
        "gpt",
        "GPT (characters)",
        "character-level GPT: embedding, 8 causal blocks, head; 10 units; text",
        TRANSFORMER,
        192,
        "transformer.gpt",
        takes="text",
    ),
    NetworkInfo(
        "spiking-mlp",
        "spiking MLP",
        "spiking, fully connected: 8 hidden layers of `width` neurons, read-out; 9 units",
        SPIKING,
        64,
        "spiking.spiking_mlp",
    ),
    NetworkInfo(
        "spiking-mlp-small",
        "spiking MLP (small)",
        "spiking, fully connected: 4 hidden layers of `width` neurons, read-out; 5 units",
        SPIKING,
        64,
        "spiking.spiking_mlp_small",
    ),
    NetworkInfo(
        "spiking-cnn",
        "spiking CNN",
        "spiking, VGG-style: 8 conv-BN-neurons of width to 8*width channels, read-out; 9 units",
        SPIKING,
        8,
        "spiking.spiking_cnn",
    ),
    NetworkInfo(
        "spiking-resnet",
        "spiking ResNet",
        "spiking ResNet-14: stem, 6 basic blocks with neurons, read-out; 8 units",
        SPIKING,
        8,
        "spiking.spiking_resnet",
    ),
)

NETWORKS: dict[str, NetworkInfo] = {row.name: row for row in _ROWS}
"""Name -> network."""


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    width: int | None = None,
    spiking: Mapping[str, Any] | None = None,
) -> list[nn.Module]:
    """Build a network as a flat list of units, each with at least one parameter.

    Weights are drawn from torch's global random generator: seed it first (`torch.manual_seed`).

    Args:
        name: a key of `NETWORKS`.
        input_shape: (channels, height, width) of one image, in pixels, or (T,) of one sequence of tokens.
        num_classes: number of logits: classes, or tokens of the vocabulary.
        width: features of a hidden layer (mlp), of a token (transformers) or channels of the first units
            (others); None: the default.
        spiking: settings of a spiking network, keys of ``networks.spiking.SETTINGS``, and the ``seed`` of its coding;
            the others have their defaults.

    Returns:
        The units, input side first: float images (N, C, H, W) -> ... -> logits (N, num_classes), or token numbers
        int64 (N, T) -> ... -> logits (N, num_classes, T).

    Raises:
        UserError: unknown name, a network that takes another kind of input, a size that is not an integer from 1 to
            65,536, or a setting that isn't the network's, or out of range.
    """
    info = look_up(NETWORKS, name, "network")
    width = info.default_width if width is None else width
    axes = INPUTS[info.takes]
    if not isinstance(input_shape, Sequence):
        raise UserError(f"network {name}: input shape is {shown(input_shape)}; give ({', '.join(axes)})")
    if len(input_shape) != len(axes):
        given, wanted = "x".join(map(shown, input_shape)), f"({', '.join(axes)}{',' * (len(axes) == 1)})"
        raise UserError(f"network {name} takes {info.takes}, not input of shape {given}; give data of shape {wanted}")
    sizes = {
        "width": width,
        "num_classes": num_classes,
        **{f"input {a}": n for a, n in zip(axes, input_shape, strict=True)},
    }
    for label, size in sizes.items():
        integer(size, f"network {name}: {label}", 1, LARGEST)
    integer(prod(input_shape), f"network {name}: product of the input's sizes", 1, LARGEST**2)
    if info.kind == SPIKING:
        from layerpipe2.lab.networks.spiking import Spiking

        return _builder(info)(input_shape, num_classes, width, Spiking.of(spiking or {}))
    if spiking:
        known = ", ".join(row.name for row in _ROWS if row.kind == SPIKING)
        raise UserError(f"network {name} isn't spiking, it has no {next(iter(spiking))}; leave it out, or take {known}")
    return _builder(info)(input_shape, num_classes, width)


def outline(name: str) -> list[nn.Module]:
    """The units of a network without weights in memory, for small inputs and ten classes: what it is made of.

    Raises:
        UserError: on an unknown name.
    """
    import torch

    shape = (64,) if look_up(NETWORKS, name, "network").takes == "text" else (3, 32, 32)
    with torch.device("meta"):
        return build(name, input_shape=shape, num_classes=10)


def _builder(info: NetworkInfo) -> Callable[..., list[nn.Module]]:
    """The function of a row, imported from its module."""
    import torch

    module, _, function = info.builder.partition(".")
    with torch.device("cpu"):  # what a module holds itself isn't on the device that a network is built on
        builder: Callable[..., list[nn.Module]] = getattr(import_module(f"layerpipe2.lab.networks.{module}"), function)
    return builder
