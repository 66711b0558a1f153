"""What averages do with whole vectors: one pass over memory on CPUs with numba, else torch's operations.

Vectors of float32 or float64 on a CPU go through the loops of :mod:`layerpipe2.strategies.compiled`, where numba is
installed. All others, and vectors with gaps, get the same result to rounding from torch.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

ZEROS: dict[torch.dtype, Any] = {torch.float32: np.float32(0), torch.float64: np.float64(0)}
"""What tells the loops a type."""


@cache
def loops() -> Any:
    """The module of the compiled ones; ``None`` without numba."""
    try:
        return import_module("layerpipe2.strategies.compiled")
    except ImportError:
        return None


def zero_of(*vectors: Tensor) -> Any:
    """A zero of the vectors' common type, if the compiled loops take them; else ``None``."""
    kind, size = vectors[0].dtype, vectors[0].shape
    for v in vectors:
        if not v.is_cpu or v.dtype is not kind or v.shape != size or not v.is_contiguous():
            return None
    return ZEROS.get(kind) if loops() else None


def move(average: Tensor, before: Tensor, after: Tensor, gains: Tensor, step: Tensor) -> None:
    """``E <- E + g u``: moves ``average`` (N,) towards the applied update ``u = before - after``.

    ``gains`` (d + 1,) has ``g`` for the steps up to ``d`` and, as its last entry, for all later ones; ``step`` is int64
    (1,).
    """
    last, zero = len(gains) - 1, zero_of(average, before, after)
    if zero is None:
        average.lerp_(before - after, gains.index_select(0, step.clamp(max=last)))
        return
    places = average.data_ptr(), before.data_ptr(), after.data_ptr(), gains.data_ptr()
    loops().move(len(average), *places, last, step.data_ptr(), zero)


def add(latest: Tensor, average: Tensor, lag: Tensor) -> Tensor:
    """``latest + lag E`` (N,), with ``lag`` int64 (1,)."""
    zero = zero_of(latest, average)
    if zero is None:
        return torch.addcmul(latest, average, lag.to(latest.dtype))
    out = torch.empty_like(latest)
    loops().add(len(out), out.data_ptr(), latest.data_ptr(), average.data_ptr(), lag.data_ptr(), zero)
    return out


def move_pair(state: Mapping[str, Tensor], before: Tensor, after: Tensor, memory: float) -> bool:
    """What :class:`layerpipe2.strategies.pair.Pair` does with an update; whether the loops could do it."""
    zero = zero_of(state["average"], state["newest"], before, after)
    if zero is not None:
        at = {name: value.data_ptr() for name, value in state.items()}
        vectors = at["average"], at["newest"], before.data_ptr(), after.data_ptr()
        small = at["products"], at["row"], at["table"], at["edges"], len(state["edges"]), at["step"], at["span"]
        loops().move_pair(len(after), *vectors, *small, memory, zero)
    return zero is not None


def add_pair(state: Mapping[str, Tensor], latest: Tensor) -> Tensor | None:
    """What it recalls (N,), if the loops can do it."""
    zero = zero_of(latest, state["average"], state["newest"])
    if zero is None:
        return None
    out = torch.empty_like(latest)
    places = (state[name].data_ptr() for name in ("average", "newest", "row", "step", "span"))
    loops().add_pair(len(out), out.data_ptr(), latest.data_ptr(), *places, zero)
    return out
