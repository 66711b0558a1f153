"""Strategies: what a stage does about the delay of its gradients.

A stage with delay ``d`` ran the forward pass of mini-batch ``t`` with ``W(t - d)``, and holds ``W(t)`` when the
backward pass of that mini-batch arrives. A :class:`~layerpipe2.strategies.base.Strategy` may act in four places: it
chooses the weights that a forward pass reads (weight prediction) and those that its backward pass reads (stash, latest,
averages), and it may change the gradient (delay compensation) and the update (error feedback). Most leave three of them
alone. :func:`~layerpipe2.strategies.chained.chain` makes one strategy of several.

The moving averages rest on an identity. With the *applied* updates ``u(j) = W(j) - W(j+1)``::

    W(t - n) = W(t) + sum_{j=t-n}^{t-1} u(j) = W(t) + n * mean of the last n updates

so ``Ŵ = W(t) + n E(t)``, with ``E`` a moving average of ``u`` and ``n = min(t, d)``, needs one extra copy of the
weights whatever the delay (LayerPipe2, abstract: "pipeline-aware moving average"; PipeMare's T2 is the nearest prior
art). For plain SGD ``u = lr * gradient``. With momentum, weight decay or a changing learning rate it is not: the
``-raw`` variants, which average ``lr * gradient`` all the same, are then biased and stand here for comparison.

Which decay the paper uses is not known. The rules give the decay ``beta`` as a function of the span ``n``, the number
of updates that the average stands for, which grows from 1 to ``d`` while the pipeline fills. The first update always
gets ``beta = 0``, so that the weights of the average sum to one from the start.

>>> import torch
>>> W = [torch.tensor([w], dtype=torch.float64) for w in (1.0, 0.5, 0.25)]       # W(0), W(1), W(2); delay 2
>>> average = make_strategy("ema-window")
>>> state = begin(average, W[0], delay=2)
>>> for t in range(2):
...     _ = average.update(state, before=W[t], after=W[t + 1])
...     count(state, delay=2)
>>> state["average"]                     # u(0) = 0.50, beta = 0: E = 0.5; u(1) = 0.25, beta = 1/2: E = 0.375
tensor([0.3750], dtype=torch.float64)
>>> average.backward(state, latest=W[2], used=W[0])                 # 0.25 + 2 * 0.375 = W(0)
tensor([1.], dtype=torch.float64)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layerpipe2.strategies.names import STRATEGIES, NamedStrategy, find_strategy, make_strategy, raw_forms

if TYPE_CHECKING:
    from layerpipe2.strategies.average import DECAY_RULES, MovingAverage, RawAverage
    from layerpipe2.strategies.base import FromLatest, OptimizerView, State, Strategy, begin, count
    from layerpipe2.strategies.chained import chain
    from layerpipe2.strategies.feedback import ErrorFeedback
    from layerpipe2.strategies.prediction import LastUpdate, Prediction
    from layerpipe2.strategies.warm_up import StashFirst

__all__ = [
    "DECAY_RULES",
    "STRATEGIES",
    "ErrorFeedback",
    "FromLatest",
    "LastUpdate",
    "MovingAverage",
    "NamedStrategy",
    "OptimizerView",
    "Prediction",
    "RawAverage",
    "StashFirst",
    "State",
    "Strategy",
    "begin",
    "chain",
    "count",
    "find_strategy",
    "make_strategy",
    "raw_forms",
]

_HOMES = {
    **dict.fromkeys(("DECAY_RULES", "MovingAverage", "RawAverage"), "average"),
    **dict.fromkeys(("FromLatest", "OptimizerView", "State", "Strategy", "begin", "count"), "base"),
    **{"chain": "chained", "ErrorFeedback": "feedback", "StashFirst": "warm_up"},
    **dict.fromkeys(("LastUpdate", "Prediction"), "prediction"),
}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use: names are told without."""
    if name not in _HOMES:
        raise AttributeError(f"module 'layerpipe2.strategies' has no attribute '{name}'")
    return getattr(import_module(f"layerpipe2.strategies.{_HOMES[name]}"), name)
