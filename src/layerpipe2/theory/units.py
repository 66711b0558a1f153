"""Networks as chains of units: one layer each, or a residual block with its shortcut (He et al. 2015, 1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from layerpipe2 import networks
from layerpipe2.errors import UserError, integer
from layerpipe2.networks.resnet import BasicBlock
from layerpipe2.theory.network import INPUT, LayeredNetwork, Operation

UNIT_KINDS = ("layer", "block", "projection")
"""A plain layer; a residual block with an identity shortcut; one whose shortcut has weights of its own."""


def chain(num_units: int) -> LayeredNetwork:
    """``num_units`` layers with weights, one after the other, named 0, 1, 2, ...

    Raises:
        UserError: if ``num_units`` is not an integer >= 1.
    """
    integer(num_units, "number of layers", 1)
    return from_units(["layer"] * num_units)


def from_units(kinds: Sequence[str]) -> LayeredNetwork:
    """A chain of units of :data:`UNIT_KINDS`, input side first.

    A block of unit 3 has the operations ``3.conv1``, ``3.conv2``, ``3.add`` and, with a projection, ``3.proj``.

    Raises:
        UserError: on an unknown kind, or no units.
    """
    operations: list[Operation] = []
    source = INPUT
    for unit, kind in enumerate(kinds):
        if kind not in UNIT_KINDS:
            raise UserError(f"unit {unit} is of unknown kind '{kind}'; known: {', '.join(UNIT_KINDS)}")
        operations += _unit(unit, kind, source)
        source = operations[-1].name
    return LayeredNetwork(tuple(operations))


def from_modules(units: Sequence[nn.Module]) -> LayeredNetwork:
    """A residual block of two convolutions becomes a unit with its branches; any other unit stands as one layer.

    Raises:
        UserError: if there are no units.
    """

    def kind(unit: nn.Module) -> str:
        if not isinstance(unit, BasicBlock):
            return "layer"
        return "block" if isinstance(unit.shortcut, nn.Identity) else "projection"

    return from_units([kind(unit) for unit in units])


def named(network: str) -> LayeredNetwork:
    """The forward graph of one of ``layerpipe2.networks.NETWORKS``.

    Raises:
        UserError: on an unknown name.
    """
    text = network in networks.NETWORKS and networks.NETWORKS[network].takes == "text"
    with torch.device("meta"):  # only the kinds of modules are needed
        return from_modules(networks.build(network, input_shape=(64,) if text else (3, 32, 32), num_classes=10))


def group_sizes(num_units: int, group_size: int | None = None, groups: Sequence[int] | None = None) -> tuple[int, ...]:
    """Units per stage, input side first. Without ``group_size`` and ``groups`` every unit is a stage.

    Args:
        num_units: units of the network.
        group_size: units of every stage but the last, which takes the rest (as ``layerpipe2.stages.partition``).
        groups: units of each stage, in place of ``group_size``.

    Raises:
        UserError: if both are given, a group is empty, or the groups don't sum to ``num_units``.
    """
    if groups is not None and group_size is not None:
        raise UserError(f"both group_size {group_size} and groups {list(groups)} are given; give one of them")
    if groups is None:
        size = 1 if group_size is None else group_size
        integer(size, f"group size for {num_units} units", 1, num_units)
        return tuple(min(size, num_units - first) for first in range(0, num_units, size))
    for k, size in enumerate(groups):
        integer(size, f"number of units in group {k}", 1)
    if sum(groups) != num_units:
        raise UserError(f"groups {list(groups)} hold {sum(groups)} units but the network has {num_units}")
    return tuple(groups)


def _unit(unit: int, kind: str, source: str) -> list[Operation]:
    if kind == "layer":
        return [Operation(f"{unit}", unit, (source,))]
    first, second, shortcut = f"{unit}.conv1", f"{unit}.conv2", f"{unit}.proj"
    body = [Operation(first, unit, (source,)), Operation(second, unit, (first,))]
    if kind == "projection":
        body.append(Operation(shortcut, unit, (source,)))
    joined = (second, shortcut if kind == "projection" else source)
    return [*body, Operation(f"{unit}.add", unit, joined, weighted=False)]
