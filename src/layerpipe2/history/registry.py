"""The table of strategies: the names of the weight histories, as in options, records and figures."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NoReturn

from layerpipe2.errors import UserError, did_you_mean
from layerpipe2.history.average import DECAY_RULES, MovingAverage
from layerpipe2.history.base import WeightHistory
from layerpipe2.history.latest import Latest
from layerpipe2.history.pair import PairHistory
from layerpipe2.history.stash import Stash
from layerpipe2.history.strategy import Dash, Strategy
from layerpipe2.history.update_window import UpdateWindow


def _fixed_average(text: str) -> Strategy:
    """``ema-<decay>``; a longer memory is darker, from Okabe and Ito's reddish purple at 0.9."""
    name = f"ema-{text}"
    decay = _number(text, name, "decay", zero=False)
    light = 0.30 + 0.40 * (1.0 - decay) ** 0.2 / 0.1**0.2
    rgb = colorsys.hls_to_rgb(0.909, min(light, 0.85), 0.48)
    return Strategy(
        name=name,
        label=f"EMA {text}",
        description="moving average of the applied updates, fixed decay (any number in (0, 1))",
        family="average",
        make=lambda: MovingAverage(decay=lambda n: decay),
        colour="#" + "".join(f"{round(255 * part):02x}" for part in rgb),
        marker="<",
        dash=(0, (2, 1, 1, 1)),
        order=4 + decay / 10,
    )


def _ruled_average(rule: str, formula: str, colour: str, marker: str, dash: Dash, order: int) -> Strategy:
    return Strategy(
        name=f"ema-{rule}",
        label=f"EMA {rule}",
        description=f"pipeline-aware moving average, decay {formula}",
        family="average",
        make=lambda: MovingAverage(decay=DECAY_RULES[rule]),
        aware=True,
        colour=colour,
        marker=marker,
        dash=dash,
        order=order,
    )


def _fixed_pair(text: str) -> Strategy:
    """``pair-<correlation>``."""
    name = f"pair-{text}"
    correlation = _number(text, name, "correlation", zero=True)
    return Strategy(
        name=name,
        label=f"pair {text}",
        description="moving average and the optimizer's momentum buffer, best for correlation 0.9 "
        "(any number in [0, 1))",
        family="pair",
        make=lambda: PairHistory(correlation=correlation),
        aware=True,
        colour="#999933",
        marker="p",
        dash=(0, (2, 2)),
        order=9 + correlation / 10,
    )


def _number(text: str, name: str, what: str, *, zero: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        _unknown(name)
    if not 0 < value < 1 and not (zero and value == 0):
        example = name.split("-")[0] + "-0.9"
        raise UserError(f"strategy '{name}' has {what} {text}; give a {what} between 0 and 1, as in {example}")
    return value


_PARAMETRISED: dict[str, Callable[[str], Strategy]] = {"ema": _fixed_average, "pair": _fixed_pair}
"""First word of a name -> the row for the number that follows it."""

_ROWS = (
    Strategy(
        name="sequential",
        label="sequential",
        description="no pipeline: one stage, no delay",
        family="sequential",
        make=Stash,
        colour="#000000",
        marker="_",
        dash=(0, (4, 2)),
        order=0,
    ),
    Strategy(
        name="stash",
        label="stash",
        description="exact weight stashing",
        family="stash",
        make=Stash,
        colour="#0072b2",
        marker="o",
        dash=(0, ()),
        order=1,
    ),
    Strategy(
        name="latest",
        label="latest",
        description="latest weights in the backward pass, no history",
        family="latest",
        make=Latest,
        colour="#d55e00",
        marker="s",
        dash=(0, (5, 1.5)),
        order=3,
    ),
    _fixed_average("0.9"),
    _ruled_average("window", "(n-1)/n", "#009e73", "^", (0, (3, 1)), 5),
    _ruled_average("running", "n/(n+1)", "#e69f00", "v", (0, (1, 1)), 6),
    _ruled_average("span", "(n-1)/(n+1)", "#56b4e9", "D", (0, (4, 1, 1, 1)), 7),
    _ruled_average("lsq", "1 - 2 ln 2 / n", "#7a4b1e", "P", (0, (6, 1, 1, 1, 1, 1)), 8),
    Strategy(
        name="pair",
        label="pair",
        description="moving average and the optimizer's momentum buffer, weighted by the updates' measured correlation",
        family="pair",
        make=PairHistory,
        aware=True,
        colour="#332288",
        marker="X",
        dash=(0, (8, 2)),
        order=9,
    ),
    _fixed_pair("0.9"),
    Strategy(
        name="update-window",
        label="update window",
        description="exact window of the applied updates (equals stashing)",
        family="window",
        make=UpdateWindow,
        colour="#7f7f7f",
        marker="h",
        dash=(0, (6, 1.5, 1, 1.5)),
        order=2,
    ),
)

STRATEGIES: dict[str, Strategy] = {row.name: row for row in _ROWS}
"""Name -> row. Further names that :func:`find_strategy` knows: any number as in ``ema-0.95`` and ``pair-0.5``, and
every average with ``-raw`` behind it."""


def find_strategy(name: str) -> Strategy:
    """The row of a strategy: one of :data:`STRATEGIES`, or made for another number, for ``-raw`` or ``-warm``.

    Raises:
        UserError: on an unknown name, or a number out of range.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    base, _, last = name.rpartition("-")
    if last == "warm":
        return _warm(name, find_strategy(base))
    if last == "raw":
        return _raw(name, find_strategy(base))
    kind, dash, number = name.partition("-")
    return _PARAMETRISED[kind](number) if dash and kind in _PARAMETRISED else _unknown(name)


def make_history(strategy: str) -> WeightHistory:
    """The weight history that a strategy's name stands for.

    Raises:
        UserError: on an unknown name, or a number out of range.
    """
    return find_strategy(strategy).make()


def raw_forms(names: Iterable[str] = tuple(STRATEGIES)) -> list[str]:
    """The names of the same averages, of lr x gradient instead of the applied updates."""
    return [f"{name}-raw" for name in names if find_strategy(name).family == "average"]


def _raw(name: str, base: Strategy) -> Strategy:
    if base.family != "average" or base.raw or base.warm:
        _unknown(name)
    return replace(
        base,
        name=name,
        label=f"{base.label}, raw",
        description=f"{base.description}, of lr x gradient",
        make=lambda: replace(base.make(), consumes="gradients"),
        raw=True,
        dash=(0, (1, 2.5)),
        order=base.order + 0.5,
    )


def _warm(name: str, base: Strategy) -> Strategy:
    if base.warm:
        _unknown(name)
    return replace(
        base,
        name=name,
        label=f"{base.label}, warm-up",
        description=f"{base.description}, after epochs with exact weights",
        make=lambda: _unknown(name),
        warm=True,
        dash=(0, (2, 3)),
        order=base.order + 0.3,
    )


def _unknown(name: str) -> NoReturn:
    raise UserError(f"unknown strategy '{name}'; {did_you_mean(name, STRATEGIES)}")
