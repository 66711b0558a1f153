"""A strategy: one row of the table of weight histories, with all that records, options and figures ask about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from layerpipe2.history.base import WeightHistory

Family = Literal["sequential", "stash", "latest", "average", "pair", "window"]
Dash = tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class Strategy:
    """What the backward pass uses for historical weights, by name.

    Attributes:
        name: as in options, records and tables.
        label: short name for readers, in legends and tables.
        description: one line of help.
        family: the kind of method. ``average`` and ``pair`` reconstruct the weights approximately.
        make: a new weight history.
        colour: ``#rrggbb``, of Okabe and Ito's palette or near it (safe for colour-blind readers).
        marker: matplotlib's letter.
        dash: offset and on-off lengths of the line, in line widths; no lengths: a solid line.
        order: place in legends and tables.
        aware: whether the weights of its average follow from the delay.
        raw: whether it averages lr x gradient, not the applied updates (names that end in ``-raw``).
        warm: whether epochs with exact weights came first (names that end in ``-warm``, of tables and figures: a run
            has the setting ``stash_epochs``).
    """

    name: str
    label: str
    description: str
    family: Family
    make: Callable[[], WeightHistory]
    colour: str
    marker: str
    dash: Dash
    order: float
    aware: bool = False
    raw: bool = False
    warm: bool = False

    @property
    def plain(self) -> str:
        """The name without ``-raw`` and ``-warm``."""
        return self.cold.removesuffix("-raw")

    @property
    def cold(self) -> str:
        """The name without ``-warm``."""
        return self.name.removesuffix("-warm")

    @property
    def exact(self) -> bool:
        """Whether it gives the backward pass the forward pass's own weights, up to rounding."""
        return self.family in ("sequential", "stash", "window")

    @property
    def filled(self) -> bool:
        """Whether its marker is filled; variants with ``-raw`` or ``-warm`` are hollow."""
        return not (self.raw or self.warm)
