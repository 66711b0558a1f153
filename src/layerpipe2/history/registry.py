"""The table of strategies: the names of the weight histories, as in options, records and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NoReturn

from layerpipe2.errors import UserError, did_you_mean
from layerpipe2.history.average import fixed_average, ruled_average
from layerpipe2.history.base import WeightHistory
from layerpipe2.history.latest import Latest
from layerpipe2.history.pair import PairHistory, fixed_pair
from layerpipe2.history.stash import Stash
from layerpipe2.history.strategy import Strategy
from layerpipe2.history.update_window import UpdateWindow

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
    fixed_average("0.9"),
    ruled_average("window", "(n-1)/n", "#009e73", "^", (0, (3, 1)), 5),
    ruled_average("running", "n/(n+1)", "#e69f00", "v", (0, (1, 1)), 6),
    ruled_average("span", "(n-1)/(n+1)", "#56b4e9", "D", (0, (4, 1, 1, 1)), 7),
    ruled_average("lsq", "1 - 2 ln 2 / n", "#7a4b1e", "P", (0, (6, 1, 1, 1, 1, 1)), 8),
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
    fixed_pair("0.9"),
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

_PARAMETRISED: dict[str, tuple[Callable[[str], Strategy], str, bool]] = {
    "ema": (fixed_average, "decay", False),
    "pair": (fixed_pair, "correlation", True),
}
"""First word of a name -> the row for the number that follows, what the number is, whether it may be 0."""


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
    kind, _, number = name.partition("-")
    if kind not in _PARAMETRISED or not _is_number(number):
        _unknown(name)
    make_row, what, zero = _PARAMETRISED[kind]
    if not 0 < float(number) < 1 and not (zero and float(number) == 0):
        raise UserError(f"strategy '{name}' has {what} {number}; give a {what} between 0 and 1, as in {kind}-0.9")
    return make_row(number)


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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unknown(name: str) -> NoReturn:
    raise UserError(f"unknown strategy '{name}'; {did_you_mean(name, STRATEGIES)}")
