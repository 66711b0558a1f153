"""Cut a chain into consecutive parts, one per processor: the slowest part or link as fast as possible, then few bytes.

PipeDream chooses its stages so (without its data-parallel replicas of a stage); LayerPipe cuts a finer chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from layerpipe2.errors import integer
from layerpipe2.planning.work import StageWork, Work

Cut = tuple[float, float]
"""Bytes that cross a place of the chain per mini-batch, towards the output and towards the input."""


def chain_cuts(
    loads: Sequence[float],
    cuts: Sequence[Cut],
    parts: int,
    occupation: Callable[[float], float],
    *,
    last: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Where to cut a chain of n items into ``parts`` non-empty runs.

    ``loads`` (n,) are the items' times in s, ``cuts`` (n - 1,) the bytes after each item but the last, ``occupation``
    turns bytes into s on a link of one direction. Where items take another time in the last run, ``last`` has it (n,).

    Returns:
        Starts of the runs and n: (parts + 1,). The largest run or link time is least, then the sum of bytes.

    Raises:
        UserError: if there are more parts than items, or none.
    """
    n = len(loads)
    integer(parts, f"number of stages for {n} units", 1, n)
    sums, last_sums = ([0.0, *accumulate(times)] for times in (loads, loads if last is None else last))
    links = [0.0, *(max(occupation(right), occupation(left)) for right, left in cuts)]
    bytes_ = [0.0, *(right + left for right, left in cuts)]

    def time(i: int, j: int) -> float:
        of = last_sums if j == n else sums
        return max(of[j] - of[i], links[i])

    def worst(best: float, i: int, j: int) -> float:
        return max(best, time(i, j))

    bound = _solve(n, parts, worst)[0] * (1 + 1e-12)

    def least_bytes(best: float, i: int, j: int) -> float:
        return best + bytes_[i] if time(i, j) <= bound else float("inf")

    return _solve(n, parts, least_bytes)[1]


def _solve(n: int, parts: int, extend: Callable[[float, int, int], float]) -> tuple[float, tuple[int, ...]]:
    """Dynamic programme over (runs, items): ``extend(value up to i, i, j)`` adds the run of items i to j - 1."""
    infinity = float("inf")
    value, back = [0.0] + [infinity] * n, list[list[int]]()
    for part in range(1, parts + 1):
        row, origin = [infinity] * (n + 1), [0] * (n + 1)
        for j in range(part, n + 1):
            candidates = ((extend(value[i], i, j), i) for i in range(part - 1, j) if value[i] < infinity)
            row[j], origin[j] = min(candidates, default=(infinity, 0))
        value = row
        back.append(origin)
    cuts = [n]
    for origin in reversed(back):
        cuts.append(origin[cuts[-1]])
    return value[n], tuple(reversed(cuts))


def merge(stages: Sequence[StageWork], cuts: Sequence[int]) -> tuple[StageWork, ...]:
    """The stages between ``cuts`` as one each.

    ``saved_bytes`` become an upper bound: a tensor that two of the merged stages keep is counted for both.
    """
    return tuple(_merged(stages[a:b]) for a, b in pairwise(cuts))


def _merged(stages: Sequence[StageWork]) -> StageWork:
    return StageWork(
        sum((s.forward for s in stages), Work()),
        sum((s.activation for s in stages), Work()),
        sum((s.weight for s in stages), Work()),
        sum(s.parameter_bytes for s in stages),
        sum(s.saved_bytes for s in stages),
        stages[0].input_bytes,
        stages[-1].output_bytes,
    )
