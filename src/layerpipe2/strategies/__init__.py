"""Weight histories: which weights the backward pass of a delayed stage uses.

A stage with delay ``d`` ran the forward pass of mini-batch ``t`` with ``W(t - d)``, and holds ``W(t)`` when the
backward pass of that batch arrives. A method is one frozen dataclass whose state is an explicit dictionary of tensors
that a checkpoint can hold. All weights of a stage travel as one flat vector of ``N`` elements.

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
>>> history = make_history("ema-window")
>>> state = history.init(W[0], delay=2)
>>> history.record(state, W[0] - W[1], torch.tensor([0]))     # u(0) = 0.50, n = 1, beta = 0:    E = 0.5
>>> history.record(state, W[1] - W[2], torch.tensor([1]))     # u(1) = 0.25, n = 2, beta = 1/2:  E = 0.375
>>> history.recall(state, W[2], W[0], torch.tensor([2]))      # 0.25 + 2 * 0.375 = W(0)
tensor([1.], dtype=torch.float64)
"""

from layerpipe2.strategies.average import DECAY_RULES, MovingAverage
from layerpipe2.strategies.base import State, Strategy, WeightHistory
from layerpipe2.strategies.exact import StashFirst
from layerpipe2.strategies.registry import STRATEGIES, find_strategy, make_history, raw_forms

__all__ = [
    "DECAY_RULES",
    "STRATEGIES",
    "MovingAverage",
    "StashFirst",
    "State",
    "Strategy",
    "WeightHistory",
    "find_strategy",
    "make_history",
    "raw_forms",
]
