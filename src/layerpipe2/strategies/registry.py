"""The table of strategies: the names of the weight histories, as in options, records and figures."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NoReturn

from layerpipe2.errors import UserError, did_you_mean, plain, shown
from layerpipe2.strategies.average import fixed_average, ruled_average
from layerpipe2.strategies.base import Strategy, WeightHistory
from layerpipe2.strategies.exact import Stash, UpdateWindow
from layerpipe2.strategies.latest import Latest
from layerpipe2.strategies.pair import PairHistory, fixed_pair

_LONGEST = 40
"""Characters of a name, which file names hold."""
_NONE = "no pipeline: one stage, no delay"
_LATEST = "latest weights in the backward pass, no history"
_PAIR = "moving average and the optimizer's momentum buffer, weighted by the updates' measured correlation"
_WINDOW = "exact window of the applied updates (equals stashing)"

_ROWS = (
    Strategy("sequential", "sequential", _NONE, "sequential", Stash, "#000000", "_", (0, (4, 2)), 0),
    Strategy("stash", "stash", "exact weight stashing", "stash", Stash, "#0072b2", "o", (0, ()), 1),
    Strategy("latest", "latest", _LATEST, "latest", Latest, "#d55e00", "s", (0, (5, 1.5)), 3),
    fixed_average("0.9"),
    ruled_average("window", "(n-1)/n", "#009e73", "^", (0, (3, 1)), 5),
    ruled_average("running", "n/(n+1)", "#e69f00", "v", (0, (1, 1)), 6),
    ruled_average("span", "(n-1)/(n+1)", "#56b4e9", "D", (0, (4, 1, 1, 1)), 7),
    ruled_average("lsq", "1 - 2 ln 2 / n", "#7a4b1e", "P", (0, (6, 1, 1, 1, 1, 1)), 8),
    Strategy("pair", "pair", _PAIR, "pair", PairHistory, "#332288", "X", (0, (8, 2)), 9, aware=True),
    fixed_pair("0.9"),
    Strategy(
        "update-window", "update window", _WINDOW, "window", UpdateWindow, "#7f7f7f", "h", (0, (6, 1.5, 1, 1.5)), 2
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
    if not isinstance(name, str) or len(name) > _LONGEST:
        _unknown(name)
    if name in STRATEGIES:
        return STRATEGIES[name]
    base, _, last = name.rpartition("-")
    if last == "warm":
        return _warm(name, find_strategy(base))
    if last == "raw":
        return _raw(name, find_strategy(base))
    kind, _, text = name.partition("-")
    try:
        (make_row, what, zero), value = _PARAMETRISED[kind], float(plain(text))
    except (KeyError, ValueError):
        _unknown(name)
    if not 0 < value < 1 and not (zero and value == 0):
        raise UserError(f"strategy '{name}' has {what} {text}; give a {what} between 0 and 1, as in {kind}-0.9")
    return make_row(text)


def make_history(strategy: str) -> WeightHistory:
    """The weight history that a strategy's name stands for.

    Raises:
        UserError: on an unknown name, or a number out of range.
    """
    history = find_strategy(strategy).make()
    object.__setattr__(history, "name", strategy)
    return history


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


def _unknown(name: object) -> NoReturn:
    raise UserError(f"unknown strategy {shown(name)}; {did_you_mean(name, STRATEGIES)}")
