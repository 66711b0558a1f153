"""The forward graph of this project's networks, read off their modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from layerpipe2 import networks
from layerpipe2.networks.resnet import BasicBlock
from layerpipe2.theory.network import LayeredNetwork, from_units


def from_modules(units: Sequence[nn.Module]) -> LayeredNetwork:
    """A residual block of two convolutions becomes a unit with its branches; any other unit stands as one layer.

    Raises:
        UserError: if there are no units.
    """
    return from_units([_kind(unit) for unit in units])


def named(network: str) -> LayeredNetwork:
    """The forward graph of one of ``layerpipe2.networks.NETWORKS``.

    Raises:
        UserError: on an unknown name.
    """
    text = network in networks.NETWORKS and networks.NETWORKS[network].takes == "text"
    with torch.device("meta"):  # only the kinds of modules are needed
        return from_modules(networks.build(network, input_shape=(64,) if text else (3, 32, 32), num_classes=10))


def _kind(unit: nn.Module) -> str:
    if not isinstance(unit, BasicBlock):
        return "layer"
    return "block" if isinstance(unit.shortcut, nn.Identity) else "projection"
