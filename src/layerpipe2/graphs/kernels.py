"""The loops that must be fast, compiled by numba without Python's lock, so that threads run them at the same time.

The random numbers are SplitMix64's (Steele, Lea and Flood 2014): number n of a mini-batch is ``mix(key + n * GAMMA)``,
a function of its key and of n alone. The key is made from (seed, epoch, batch).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError, install_command

try:
    from layerpipe2.compiling import compiled
except ImportError:
    raise UserError(f"sampled graphs need numba; run {install_command('graphs')}") from None

GAMMA, _A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _32 = (np.uint64(bits) for bits in (27, 30, 31, 32))
_WORD, _LOW = np.uint64(1 << 32), np.uint64((1 << 32) - 1)
NO_NEIGHBOUR, NO_DESTINATION = -1, -2
"""Instead of a neighbour's row: this node has no more of them; in this layer the node gets no output."""


@compiled
def mix(z: Any) -> Any:
    """Apply SplitMix64's output function, uint64 to uint64."""
    z = (z ^ (z >> _30)) * _A
    z = (z ^ (z >> _27)) * _B
    return z ^ (z >> _31)


@compiled
def batch_key(seed: Any, epoch: Any, batch: Any) -> Any:
    """Return where the random numbers of a mini-batch begin; numba gives it to Python as an int."""
    state = np.uint64(0)
    for part in (seed, epoch, batch):
        state = mix(state + np.uint64(part) + GAMMA)
    return state


@compiled
def below(state: Any, n: Any) -> Any:
    """Draw a number from 0 to n - 1, all equally likely (Lemire 2019; n at most 2**32); return it and the next state.

    The product of n and a random word has its upper word in range; n numbers share 2**32 products evenly when the
    2**32 mod n products with the smallest lower words are drawn again.
    """
    n = np.uint64(n)
    while True:
        state += GAMMA
        product = (mix(state) >> _32) * n
        if (product & _LOW) >= n or (product & _LOW) >= (_WORD - n) % n:
            return np.int64(product >> _32), state


@compiled
def choose(n: int, k: int, chosen: NDArray[np.int32], at: int, state: Any) -> Any:
    """Fill ``chosen[at : at + k]`` with k < n of 0 ... n - 1, all subsets equally likely, and return the next state.

    Floyd's method (Bentley and Floyd 1987): for j from n - k to n - 1 draw one of 0 ... j, and take j itself if that
    one is taken already.
    """
    for c in range(at, at + k):
        j = n - k + c - at
        position, state = below(state, j + 1)
        for earlier in range(at, c):
            if chosen[earlier] == position:
                position = j
                break
        chosen[c] = position
    return state


@compiled
def sample_hops(
    rowptr: NDArray[np.int64],
    col: NDArray[np.int64],
    seeds: NDArray[np.int64],
    fan_out: NDArray[np.int64],
    state: Any,
    local: NDArray[np.int32],
    nodes: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """Find neighbours of the seeds, neighbours of all those, and so on, numbering the nodes over all hops.

    A node with more than k neighbours keeps k of them, see :func:`choose`.

    Args:
        rowptr, col: the graph.
        seeds: int64 (B,), no node twice.
        fan_out: k of each hop, from the seeds outwards.
        state: uint64, the mini-batch's key.
        local: int32 (N,), all -1; it is so again afterwards.
        nodes: filled with the nodes found, in order; the seeds come first.
        neighbours: filled with one table (counts[h], fan_out[h]) after the other: numbers in ``nodes``, else -1.
        counts: filled with the number of nodes before the first hop and after each.
    """
    found = len(seeds)
    for i in range(found):
        nodes[i] = seeds[i]
        local[seeds[i]] = i
    counts[0] = found
    at = 0
    for hop in range(len(fan_out)):
        k = fan_out[hop]
        neighbours[at : at + counts[hop] * k] = NO_NEIGHBOUR
        for i in range(counts[hop]):
            start = rowptr[np.uint64(nodes[i])]  # an index that may be negative costs a comparison, and vectors
            degree = rowptr[np.uint64(nodes[i] + 1)] - start
            kept = min(k, degree)
            if kept < degree:
                state = choose(degree, kept, neighbours, at, state)
            for c in range(at, at + kept):
                node = np.uint64(col[np.uint64(start + (neighbours[c] if kept < degree else c - at))])
                number = local[node]
                if number < 0:
                    number = local[node] = found
                    nodes[found] = node
                    found += 1
                neighbours[c] = number
            at += k
        counts[hop + 1] = found
    for i in range(found):
        local[nodes[i]] = -1


@compiled
def slice_rows(
    features: NDArray[Any],
    nodes: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    counts: NDArray[np.int64],
    ends: NDArray[np.int64],
    fan_out: NDArray[np.int64],
    table: NDArray[Any],
    ids: NDArray[Any],
) -> None:
    """Write the nodes' features into the first columns of ``table``, their neighbours into the last ones of ``ids``.

    Both may be one array. The columns of the first hop, which the last layer reads, are the last. Rows ``counts[h] ...
    ends[h]`` stand for destinations that aren't there.
    """
    found, width = len(nodes), features.shape[1]
    for i in range(found):
        node = np.uint64(nodes[i])
        for f in range(width):
            table[i, f] = features[node, f]
    table[found:, :width] = 0
    at, column = 0, ids.shape[1]
    for hop in range(len(fan_out)):
        k = fan_out[hop]
        column -= k
        for i in range(counts[hop]):
            for c in range(k):
                ids[i, column + c] = neighbours[at + c]
            at += k
        ids[counts[hop] : ends[hop], column : column + k] = NO_NEIGHBOUR
        ids[ends[hop] :, column : column + k] = NO_DESTINATION
