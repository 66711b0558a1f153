"""What a row computes: element-wise operations per weight and update, beside those of exact stashing."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.field.rows import ROWS
from layerpipe2 import find_strategy
from layerpipe2.strategies.base import Strategy, begin, count

_WEIGHTS, _DELAY = 1024, 8
_TYPE = torch.bfloat16  # which the compiled loops, whose operations nothing sees, leave to torch
_MOVES = ("copy_", "clone", "zeros_like", "empty_like", "view", "expand", "detach", "_to_copy")
"""What moves numbers and computes none."""


@dataclass(frozen=True)
class _Optimizer:
    """The view of an optimizer of ``kind`` in the middle of a training; settings are one number, states are vectors."""

    kind: str

    def rate(self) -> Tensor:
        return torch.full((1,), 0.1, dtype=_TYPE)

    def setting(self, name: str) -> Tensor:
        known = {"momentum": 0.9, "betas.0": 0.9, "betas.1": 0.9, "lr": 0.1}
        return torch.full((1,), known.get(name, 0.0), dtype=_TYPE)

    def state(self, name: str) -> Tensor:
        return torch.full((1 if name == "step" else _WEIGHTS,), 9.0, dtype=_TYPE)


class _Counter(TorchDispatchMode):
    """Counts results that have as many elements as there are weights."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        moves = func.overloadpacket.__name__ in _MOVES
        self.results += int(isinstance(result, Tensor) and result.numel() == _WEIGHTS and not moves)
        return result


@cache
def operations(name: str, optimizer: str = "SGD") -> int:
    """Element-wise operations per weight that a strategy's four places take for one update, as they are written.

    Each kernel whose result has an element per weight counts once, a fused one such as ``lerp`` as well; sums over all
    weights, settings and counters don't. Moves to and from a stash aren't operations, so that it has none.

    Args:
        name: of the strategy or the row.
        optimizer: class of the optimizer that it may look at.

    Raises:
        UserError: if there is no such strategy, or it refuses the optimizer.
    """
    made: Strategy = find_strategy(name).make()
    weights = torch.linspace(-1, 1, _WEIGHTS, dtype=_TYPE)
    state = begin(made, weights, _DELAY)
    for _ in range(_DELAY):
        count(state, _DELAY)
    before, used, after = weights.clone(), weights.clone(), 0.9 * weights
    view = _Optimizer(optimizer)
    counter = _Counter()
    with counter:
        made.forward(state, before, view)
        made.backward(state, before, used)
        made.gradient(state, used, before, used)
        made.update(state, before, after)
    return counter.results


if __name__ == "__main__":
    import sys

    rows = [name for name, row in ROWS.items() if not (row.number or row.delays) and "sgd" in row.optimizers]
    for given in sys.argv[1:] or ("stash", "ema-span", "pair", *rows):
        print(given, operations(given))
