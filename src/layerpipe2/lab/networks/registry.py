"""The networks by name. A network is a flat list of units, called one after the other.

Nothing here imports torch before a network is built: whoever mistypes a name is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
        default_width: features of a hidden layer or a token, or channels of the first units.
        description: one line of help.
        kind: of its units.
        module: of this folder, with a function of the network's name, whose ``-`` is ``_``: (input shape, number of
            classes, width) -> units; of a spiking network (..., its settings).
        takes: kind of input, a key of :data:`INPUTS`.
    """

    name: str
    label: str
    default_width: int
    description: str
    kind: Kind
    module: str
    takes: str = "images"


DENSE, CNN, TRANSFORMER, SPIKING = get_args(Kind)
_cnn = partial(NetworkInfo, kind=CNN, module="convolutional")
_transformer = partial(NetworkInfo, kind=TRANSFORMER, module="transformer")
_spiking = partial(NetworkInfo, kind=SPIKING, module="spiking")
_PLAIN = "conv-ReLU of width to 8*width channels, not normalised, head"
_NORMALISED = "conv-BN-ReLU of width to 8*width channels, head"
_RELU = "hidden layers of `width` features with ReLU, output"
_NEURONS = "hidden layers of `width` neurons, read-out"
_SPIKING_CNN = "conv-BN-neurons of width to 8*width channels, read-out"
_ROWS = (
    NetworkInfo("mlp", "MLP", 128, f"fully connected: 8 {_RELU}; 9 units", DENSE, "mlp"),
    _cnn("cnn", "CNN", 32, f"plain: 8 {_PLAIN}; 9 units"),
    _cnn("vgg", "VGG", 32, f"VGG-style: 8 {_NORMALISED}; 9 units"),
    _cnn("cnn-small", "CNN (small)", 8, f"plain: 4 {_PLAIN}; 5 units"),
    _cnn("vgg-small", "VGG (small)", 8, f"VGG-style: 4 {_NORMALISED}; 5 units"),
    _cnn("resnet18", "ResNet-18", 64, "ResNet-18 for small images: stem, 8 basic blocks, head; 10 units"),
    _cnn("resnet-small", "ResNet (small)", 16, "narrow ResNet-14: stem, 6 basic blocks, head; 8 units"),
    _cnn("vgg16", "VGG-16", 64, f"VGG-16: 13 {_NORMALISED}; 14 units"),
    _transformer("vit", "ViT", 192, "vision transformer: patches, 8 blocks of `width` features, head; 10 units"),
    _transformer(
        "gpt",
        "GPT (characters)",
        192,
        "character-level GPT: embedding, 8 causal blocks, head; 10 units; text",
        takes="text",
    ),
    _transformer(
        "gpt-small",
        "GPT (4 blocks)",
        128,
        "as gpt, of 4 blocks, the network of nanoGPT's recipe for a CPU; 6 units; text",
        takes="text",
    ),
    _spiking("spiking-mlp", "spiking MLP", 64, f"spiking, fully connected: 8 {_NEURONS}; 9 units"),
    _spiking("spiking-mlp-small", "spiking MLP (small)", 64, f"spiking, fully connected: 4 {_NEURONS}; 5 units"),
    _spiking("spiking-cnn", "spiking CNN", 8, f"spiking, VGG-style: 8 {_SPIKING_CNN}; 9 units"),
    _spiking(
        "spiking-resnet", "spiking ResNet", 8, "spiking ResNet-14: stem, 6 basic blocks with neurons, read-out; 8 units"
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
    labels = ("width", "num_classes", *(f"input {axis}" for axis in axes))
    for label, size in zip(labels, (width, num_classes, *input_shape), strict=True):
        integer(size, f"network {name}: {label}", 1, LARGEST)
    integer(prod(input_shape), f"network {name}: product of the input's sizes", 1, LARGEST**2)
    if spiking and info.kind != SPIKING:
        known = ", ".join(row.name for row in _ROWS if row.kind == SPIKING)
        raise UserError(f"network {name} isn't spiking, it has no {next(iter(spiking))}; leave it out, or take {known}")
    import torch

    with torch.device("cpu"):  # what a module holds itself isn't on the device that a network is built on
        module = import_module(f"layerpipe2.lab.networks.{info.module}")
    made = [module.Spiking.of(spiking or {})] if info.kind == SPIKING else []
    units: list[nn.Module] = getattr(module, name.replace("-", "_"))(input_shape, num_classes, width, *made)
    return units


def outline(name: str) -> list[nn.Module]:
    """The units of a network without weights in memory, for small inputs and ten classes: what it is made of.

    Raises:
        UserError: on an unknown name.
    """
    import torch

    shape = (64,) if look_up(NETWORKS, name, "network").takes == "text" else (3, 32, 32)
    with torch.device("meta"):
        return build(name, input_shape=shape, num_classes=10)
