"""Which unit belongs to which stage, and the clock that the stages run by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from layerpipe2.errors import UserError, integer


@dataclass(frozen=True)
class Clock:
    """How a convention's stages share time. A tick is one turn of every stage.

    Attributes:
        name: the convention's name, as in :data:`layerpipe2.delays.DELAY_LAWS`.
        period: number of stages -> ticks from one mini-batch to the next.
        turn: ticks that lie between the last stage's forward and its backward task.
        text: one line for readers.
    """

    name: str
    period: Callable[[int], int]
    turn: int
    text: str


CLOCKS: dict[str, Clock] = {
    "layerpipe2": Clock("layerpipe2", lambda K: 1, 0, "every stage does a forward and a backward task in each tick"),
    "pipedream": Clock("pipedream", lambda K: 2, 1, "1F1B: every stage does a forward or a backward task in each tick"),
    "none": Clock("none", lambda K: 2 * K, 1, "one task per tick in the whole machine: no pipelining"),
}
"""Conventions that can be derived."""


def clock_of(convention: str) -> Clock:
    """The clock of a convention.

    Raises:
        UserError: on an unknown name.
    """
    if convention not in CLOCKS:
        raise UserError(f"unknown delay convention '{convention}'; known: {', '.join(CLOCKS)}")
    return CLOCKS[convention]


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


def stage_of_unit(sizes: Sequence[int]) -> tuple[int, ...]:
    """Stage of every unit: (2, 1) gives (0, 0, 1)."""
    return tuple(stage for stage, size in enumerate(sizes) for _ in range(size))
