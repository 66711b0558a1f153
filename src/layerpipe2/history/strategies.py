"""The names of the weight histories, as used on command lines, in records and in figures."""

from __future__ import annotations

from layerpipe2.errors import UserError
from layerpipe2.history.average import DECAY_RULES, MovingAverage
from layerpipe2.history.base import Consumes, Latest, Stash, UpdateWindow, WeightHistory
from layerpipe2.history.pair import PairHistory

STRATEGIES: dict[str, str] = {
    "sequential": "no pipeline: one stage, no delay",
    "stash": "exact weight stashing",
    "latest": "latest weights in the backward pass, no history",
    "ema-0.9": "moving average of the applied updates, fixed decay (any number in (0, 1))",
    "ema-window": "pipeline-aware moving average, decay (n-1)/n",
    "ema-running": "pipeline-aware moving average, decay n/(n+1)",
    "ema-span": "pipeline-aware moving average, decay (n-1)/(n+1)",
    "ema-lsq": "pipeline-aware moving average, decay 1 - 2 ln 2 / n",
    "pair": "moving average and the optimizer's momentum buffer, weighted by the updates' measured correlation",
    "pair-0.9": "moving average and the optimizer's momentum buffer, best for correlation 0.9 (any number in [0, 1))",
    "update-window": "exact window of the applied updates (equals stashing)",
}
"""Strategy name -> one line. Every ``ema-*`` may end in ``-raw``: averages lr x gradient, not the applied update."""


_PLAIN: dict[str, WeightHistory] = {
    "sequential": Stash(),
    "stash": Stash(),
    "latest": Latest(),
    "pair": PairHistory(),
    "update-window": UpdateWindow(),
}


def make_history(strategy: str) -> WeightHistory:
    """The weight history that a strategy name of :data:`STRATEGIES` stands for.

    Raises:
        UserError: on an unknown name, or a fixed decay outside (0, 1).
    """
    if strategy in _PLAIN:
        return _PLAIN[strategy]
    if strategy.startswith("pair-"):
        return PairHistory(correlation=_number(strategy.removeprefix("pair-"), strategy, "correlation", zero=True))
    rule = strategy.removesuffix("-raw").removeprefix("ema-")
    consumes: Consumes = "gradients" if strategy.endswith("-raw") else "updates"
    if strategy.startswith("ema-") and rule in DECAY_RULES:
        return MovingAverage(consumes, DECAY_RULES[rule])
    if strategy.startswith("ema-"):
        beta = _number(rule, strategy, "decay", zero=False)
        return MovingAverage(consumes, lambda n: beta)
    raise _unknown(strategy)


def _number(text: str, strategy: str, what: str, *, zero: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _unknown(strategy) from None
    if not 0 < value < 1 and not (zero and value == 0):
        example = strategy.split("-")[0] + "-0.9"
        raise UserError(f"strategy '{strategy}' has {what} {text}; give a {what} between 0 and 1, as in {example}")
    return value


def _unknown(strategy: str) -> UserError:
    return UserError(f"unknown strategy '{strategy}'; known: {', '.join(STRATEGIES)} (ema-* also with -raw)")
