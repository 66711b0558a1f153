"""Weight histories: which weights the backward pass of a delayed stage uses.

A stage with delay ``d`` ran the forward pass of mini-batch ``t`` with ``W(t - d)``, and holds ``W(t)`` when the
backward pass of that batch arrives. A method is one frozen dataclass whose state is an explicit dictionary of tensors
that a checkpoint can hold. All weights of a stage travel as one flat vector of ``N`` elements.

The moving averages rest on an identity. With the *applied* updates ``u(j) = W(j) - W(j+1)``::

    W(t - n) = W(t) + sum_{j=t-n}^{t-1} u(j) = W(t) + n * mean of the last n updates

so ``What = W(t) + n E(t)``, with ``E`` a moving average of ``u`` and ``n = min(t, d)``, needs one extra copy of the
weights whatever the delay (LayerPipe2, abstract: "pipeline-aware moving average"; PipeMare's T2 is the nearest prior
art). For plain SGD ``u = lr * gradient``. With momentum, weight decay or a changing learning rate it is not: the
``-raw`` variants, which average ``lr * gradient`` all the same, are then biased and stand here for comparison.

Which decay the paper uses is not known. The rules give the decay ``beta`` as a function of the span ``n``, the number
of updates that the average stands for, which grows from 1 to ``d`` while the pipeline fills. The first update always
gets ``beta = 0``, so that the weights of the average sum to one from the start.

>>> W = [torch.tensor([w], dtype=torch.float64) for w in (1.0, 0.5, 0.25)]       # W(0), W(1), W(2); delay 2
>>> history = make_history("ema-window")
>>> state = history.init(W[0], delay=2)
>>> history.record(state, W[0] - W[1], torch.tensor([0]))     # u(0) = 0.50, n = 1, beta = 0:    E = 0.5
>>> history.record(state, W[1] - W[2], torch.tensor([1]))     # u(1) = 0.25, n = 2, beta = 1/2:  E = 0.375
>>> history.recall(state, W[2], W[0], torch.tensor([2]))      # 0.25 + 2 * 0.375 = W(0)
tensor([1.], dtype=torch.float64)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.history_pair import PairHistory
from layerpipe2.weight_history import Consumes, Latest, Stash, State, UpdateWindow, WeightHistory

__all__ = ["DECAY_RULES", "STRATEGIES", "MovingAverage", "State", "WeightHistory", "make_history"]

DECAY_RULES: dict[str, Callable[[int], float]] = {
    "window": lambda n: (n - 1) / n,
    "running": lambda n: n / (n + 1),
    "span": lambda n: (n - 1) / (n + 1),
    "lsq": lambda n: max(0.0, 1 - 2 * math.log(2) / n),
}
"""Decay as a function of the span ``n``.

``window``: the newest update weighs 1/n, as in the exact window. ``running``: the recursion of a running mean that
already holds n values. ``span``: the same mean lag as the window, (n-1)/2, so no bias where the weights drift along a
line (exponential smoothing's span rule). ``lsq``: least squared error for white updates at large n.
"""


@dataclass(frozen=True)
class MovingAverage(WeightHistory):
    """``What = W(t) + n E(t)``, ``E <- beta(n) E + (1 - beta(n)) u``; see the module's text.

    Attributes:
        consumes: ``updates``, or ``gradients`` for the raw form.
        decay: the decay ``beta`` as a function of the span ``n`` >= 1, in [0, 1).
    """

    consumes: Consumes = "updates"
    constants: ClassVar[tuple[str, ...]] = ("gain",)
    decay: Callable[[int], float] = DECAY_RULES["window"]

    def init(self, weights: Tensor, delay: int) -> State:
        """``average`` E (N,), and the table ``gain`` (d + 1,) of ``1 - beta``.

        Entry j of the table belongs to update number j, and entry d to all later ones. Update j makes the span
        ``min(j + 1, d)``; the very first one starts the average.
        """
        gains = [1.0] + [1.0 - self.decay(min(j + 1, delay)) for j in range(1, delay + 1)]
        return {"average": torch.zeros_like(weights), "gain": weights.new_tensor(gains)}

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """``W(t) + min(t, d) E(t)``."""
        span = step.clamp(max=len(state["gain"]) - 1)
        return torch.addcmul(latest, state["average"], span.to(latest.dtype))

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        """Move the average towards ``update``."""
        number = step.clamp(max=len(state["gain"]) - 1)
        state["average"].lerp_(update, state["gain"].index_select(0, number))

    def copies(self, delay: int) -> float:
        """One, the average, whatever the delay."""
        return 1.0 if delay else 0.0


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
