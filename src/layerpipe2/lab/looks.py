"""How each strategy is drawn: one colour, marker and line in all figures and in MLflow."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from layerpipe2.errors import UserError
from layerpipe2.strategies import find_strategy

Dash = tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    """How a strategy is drawn.

    Attributes:
        colour: ``#rrggbb``, of Okabe and Ito's palette or near it (safe for colour-blind readers).
        marker: matplotlib's letter.
        dash: offset and on-off lengths of the line, in line widths; no lengths: a solid line.
        order: place in legends and tables.
        filled: whether its marker is filled; variants with ``-raw`` or ``-warm`` are hollow.
    """

    colour: str
    marker: str
    dash: Dash
    order: float
    filled: bool = True


_LOOKS = {
    "sequential": Look("#000000", "_", (0, (4, 2)), 0),
    "stash": Look("#0072b2", "o", (0, ()), 1),
    "update-window": Look("#7f7f7f", "h", (0, (6, 1.5, 1, 1.5)), 2),
    "latest": Look("#d55e00", "s", (0, (5, 1.5)), 3),
    "ema-window": Look("#009e73", "^", (0, (3, 1)), 5),
    "ema-running": Look("#e69f00", "v", (0, (1, 1)), 6),
    "ema-span": Look("#56b4e9", "D", (0, (4, 1, 1, 1)), 7),
    "ema-lsq": Look("#7a4b1e", "P", (0, (6, 1, 1, 1, 1, 1)), 8),
    "pair": Look("#332288", "X", (0, (8, 2)), 9),
    "feedback": Look("#661100", "d", (0, (2, 1)), 10),
    "feedback-d": Look("#cc6677", ">", (0, (7, 1, 3, 1)), 11),
    "last-update": Look("#117733", "8", (0, (3, 2)), 12),
}


_ROW = Look("#999999", "*", (0, (1, 1.5)), 13)
"""The look of all mitigations of another table: they are too many for colours, and named where they stand."""


def look(strategy: str) -> Look:
    """The look of a strategy's name, of its variants as well.

    Raises:
        UserError: on a name that isn't known, or has no look.
    """
    row = find_strategy(strategy)
    plain = _plain(row.plain)
    if row.raw:
        plain = replace(plain, dash=(0, (1, 2.5)), order=plain.order + 0.5, filled=False)
    if row.warm:
        plain = replace(plain, dash=(0, (2, 3)), order=plain.order + 0.3, filled=False)
    return plain


def ordered(strategies: Iterable[str]) -> list[str]:
    """Strategies without repetition, in the order of legends and tables."""
    return sorted(set(strategies), key=lambda name: (look(name).order, name))


def _plain(name: str) -> Look:
    if name in _LOOKS:
        return _LOOKS[name]
    kind, _, number = name.partition("-")
    if kind == "ema" and number[:1].isdigit():
        return _fixed_decay(float(number))
    if kind == "pair":
        return Look("#999933", "p", (0, (2, 2)), 9 + float(number) / 10)
    if find_strategy(name).family == "field":
        return _ROW
    raise UserError(f"strategy '{name}' has no look; add a row to layerpipe2/lab/looks.py")


def _fixed_decay(decay: float) -> Look:
    """A longer memory is darker, from Okabe and Ito's reddish purple at 0.9."""
    light = 0.30 + 0.40 * (1.0 - decay) ** 0.2 / 0.1**0.2
    rgb = colorsys.hls_to_rgb(0.909, min(light, 0.85), 0.48)
    colour = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
    return Look(colour, "<", (0, (2, 1, 1, 1)), 4 + decay / 10)
