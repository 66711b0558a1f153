"""What averages do in all stages of an optimizer, by one call: calls cost more than the arithmetic of short vectors.

Only where the loops are compiled and take the vectors; the arithmetic is that of each stage alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerpipe2.strategies import sweeps
from layerpipe2.strategies.average import MovingAverage
from layerpipe2.strategies.base import State, Strategy
from layerpipe2.strategies.pair import MEMORY, Pair


class _Loops(NamedTuple):
    """Names of a strategy's loops, the entries of its state that are arguments of them, and what all stages share."""

    move: str
    moved: tuple[str, ...]
    shared: tuple[float, ...]
    add: str
    added: tuple[str, ...]


_LOOPS: dict[type[Strategy], _Loops] = {  # of these alone, not of a subclass, which may do something else
    MovingAverage: _Loops("move_all", ("average", "gain"), (), "add_all", ("average", "lag")),
    Pair: _Loops(
        "move_pair_all",
        ("average", "newest", "products", "row", "table", "span", "edges"),
        (MEMORY,),
        "add_pair_all",
        ("average", "newest", "row", "span"),
    ),
}


def update_of(
    strategy: Strategy, states: Sequence[State], after: Sequence[Tensor]
) -> Callable[[Sequence[Tensor]], None] | None:
    """:meth:`Strategy.update` of all stages, where the loops can do it, as a function of their weights before.

    Args:
        strategy: that of all stages.
        states: theirs.
        after: their weights (N,) after the update. All tensors but those before it stay where they are.
    """
    chosen = _chosen(strategy, states, after)
    if chosen is None:
        return None
    own, zero = chosen
    pairs = zip(states, after, strict=True)
    rows = [(0, len(w), w.data_ptr(), len(s[own.moved[-1]]), *_at(s, own.moved)) for s, w in pairs]
    call, table = _call(own.move, rows, (states[0]["step"].data_ptr(), *own.shared, zero))

    def update(before: Sequence[Tensor]) -> None:
        table[:, 0] = [w.data_ptr() for w in before]
        call()

    return update


def backward_of(
    strategy: Strategy, states: Sequence[State], latest: Sequence[Tensor], out: Sequence[Tensor]
) -> Callable[[], None] | None:
    """:meth:`Strategy.backward` of all stages, where the loops can do it; ``out`` (N,) of each takes what it returns.

    All tensors stay where they are.
    """
    chosen = _chosen(strategy, states, latest)
    if chosen is None:
        return None
    own, zero = chosen
    vectors = zip(states, latest, out, strict=True)
    rows = [(len(w), o.data_ptr(), w.data_ptr(), *_at(s, own.added)) for s, w, o in vectors]
    return _call(own.add, rows, (states[0]["step"].data_ptr(), zero))[0]


def copies_to(targets: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """What copies vectors to ``targets``, of the same sizes; these stay where they are."""
    zero = _common_zero([sweeps.zero_of(target) for target in targets])
    if zero is None:
        return lambda sources: torch._foreach_copy_(list(targets), list(sources))
    call, table = _call("copy_all", [(0, target.data_ptr(), len(target)) for target in targets], (zero,))

    def copy(sources: Sequence[Tensor]) -> None:
        table[:, 0] = [source.data_ptr() for source in sources]
        call()

    return copy


def _chosen(strategy: Strategy, states: Sequence[State], weights: Sequence[Tensor]) -> tuple[_Loops, Any] | None:
    own = _LOOPS.get(type(strategy))
    if own is None:
        return None
    zero = _common_zero([sweeps.zero_of(s["average"], w) for s, w in zip(states, weights, strict=True)])
    return None if zero is None or len({id(s["step"]) for s in states}) > 1 else (own, zero)


def _common_zero(zeros: Sequence[Any]) -> Any:
    return zeros[0] if {type(zero) for zero in zeros} in ({np.float32}, {np.float64}) else None


def _at(state: State, names: Sequence[str]) -> list[int]:
    return [state[name].data_ptr() for name in names]


def _call(name: str, rows: Sequence[Sequence[int]], others: Sequence[Any]) -> tuple[Callable[[], None], Any]:
    """The loop over the rows of a table, and that table, int64 (stages, arguments)."""
    table, loop = np.array(rows, dtype=np.int64), getattr(sweeps.loops(), name)
    address = table.ctypes.data
    return lambda: loop(len(table), address, *others), table
