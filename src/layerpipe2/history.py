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
from typing import Literal, Protocol

import torch
from torch import Tensor

from layerpipe2.errors import UserError

State = dict[str, Tensor]
Consumes = Literal["updates", "gradients", "nothing"]

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


class WeightHistory(Protocol):
    """A method of recalling ``W(t - d)``. ``step`` is ``t``, an int64 tensor of shape (1,), counted from the last fill.

    Attributes:
        exact: the recalled weights are those of the forward pass by definition, so nothing has to be replaced.
        consumes: what :meth:`record` takes: the applied ``updates``, ``gradients`` (``lr * gradient``) or ``nothing``.
    """

    @property
    def exact(self) -> bool: ...

    @property
    def consumes(self) -> Consumes: ...

    def init(self, weights: Tensor, delay: int) -> State:
        """State of a stage with flat weights (N,) and ``delay`` > 0 updates, before its first update."""
        ...

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """Weights (N,) for the backward pass. ``latest`` is ``W(t)``.

        ``delayed`` is ``W(t - d)`` from the simulator's delay line: only exact stashing may look at it.
        """
        ...

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        """Take in update number ``step``, ``W(t) - W(t+1)``; changes ``state`` in place (CUDA graphs need that)."""
        ...

    def copies(self, delay: int) -> float:
        """Copies of the stage's weights that hardware must hold beside the latest ones."""
        ...


@dataclass(frozen=True)
class Stash:
    """Exact weight stashing (PipeDream): keeps ``W(t - d) ... W(t - 1)``."""

    exact: bool = True
    consumes: Consumes = "nothing"

    def init(self, weights: Tensor, delay: int) -> State:
        return {}

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        return delayed

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        pass

    def copies(self, delay: int) -> float:
        return float(delay)


@dataclass(frozen=True)
class Latest:
    """No history: the backward pass uses ``W(t)``, whatever the forward pass used."""

    exact: bool = False
    consumes: Consumes = "nothing"

    def init(self, weights: Tensor, delay: int) -> State:
        return {}

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        return latest

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        pass

    def copies(self, delay: int) -> float:
        return 0.0


@dataclass(frozen=True)
class MovingAverage:
    """``What = W(t) + n E(t)``, ``E <- beta(n) E + (1 - beta(n)) u``; see the module's text.

    Attributes:
        decay: the decay ``beta`` as a function of the span ``n`` >= 1, in [0, 1).
        consumes: ``gradients`` for the raw form.
    """

    decay: Callable[[int], float]
    consumes: Consumes = "updates"
    exact: bool = False

    def init(self, weights: Tensor, delay: int) -> State:
        # Entry j is 1 - beta of update number j; from number d on it stays the same. Update j makes the span
        # min(j + 1, d); the very first one starts the average.
        gains = [1.0] + [1.0 - self.decay(min(j + 1, delay)) for j in range(1, delay + 1)]
        return {"average": torch.zeros_like(weights), "gain": weights.new_tensor(gains)}

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        span = step.clamp(max=len(state["gain"]) - 1)
        return torch.addcmul(latest, state["average"], span.to(latest.dtype))

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        number = step.clamp(max=len(state["gain"]) - 1)
        state["average"].lerp_(update, state["gain"].index_select(0, number))

    def copies(self, delay: int) -> float:
        return 1.0 if delay else 0.0


@dataclass(frozen=True)
class UpdateWindow:
    """The identity itself: keeps the last ``d`` applied updates; equals stashing to rounding, at its memory cost."""

    exact: bool = False
    consumes: Consumes = "updates"

    def init(self, weights: Tensor, delay: int) -> State:
        return {"updates": weights.new_zeros(delay, weights.numel())}

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        return latest + state["updates"].sum(0)

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        state["updates"].index_copy_(0, step.remainder(len(state["updates"])), update[None])

    def copies(self, delay: int) -> float:
        return float(delay)


STRATEGIES: dict[str, str] = {
    "sequential": "no pipeline: one stage, no delay",
    "stash": "exact weight stashing",
    "latest": "latest weights in the backward pass, no history",
    "ema-0.9": "moving average of the applied updates, fixed decay (any number in (0, 1))",
    "ema-window": "pipeline-aware moving average, decay (n-1)/n",
    "ema-running": "pipeline-aware moving average, decay n/(n+1)",
    "ema-span": "pipeline-aware moving average, decay (n-1)/(n+1)",
    "ema-lsq": "pipeline-aware moving average, decay 1 - 2 ln 2 / n",
    "update-window": "exact window of the applied updates (equals stashing)",
}
"""Strategy name -> one line. Every ``ema-*`` may end in ``-raw``: averages lr x gradient, not the applied update."""


_PLAIN: dict[str, WeightHistory] = {
    "sequential": Stash(),
    "stash": Stash(),
    "latest": Latest(),
    "update-window": UpdateWindow(),
}


def make_history(strategy: str) -> WeightHistory:
    """The weight history that a strategy name of :data:`STRATEGIES` stands for.

    Raises:
        UserError: on an unknown name, or a fixed decay outside (0, 1).
    """
    if strategy in _PLAIN:
        return _PLAIN[strategy]
    rule = strategy.removesuffix("-raw").removeprefix("ema-")
    consumes: Consumes = "gradients" if strategy.endswith("-raw") else "updates"
    if strategy.startswith("ema-") and rule in DECAY_RULES:
        return MovingAverage(DECAY_RULES[rule], consumes)
    if strategy.startswith("ema-"):
        return MovingAverage(_fixed(rule, strategy), consumes)
    raise _unknown(strategy)


def _fixed(text: str, strategy: str) -> Callable[[int], float]:
    try:
        beta = float(text)
    except ValueError:
        raise _unknown(strategy) from None
    if not 0 < beta < 1:
        raise UserError(f"strategy '{strategy}' has decay {text}; give a decay between 0 and 1, as in ema-0.9")
    return lambda n: beta


def _unknown(strategy: str) -> UserError:
    return UserError(f"unknown strategy '{strategy}'; known: {', '.join(STRATEGIES)} (ema-* also with -raw)")
