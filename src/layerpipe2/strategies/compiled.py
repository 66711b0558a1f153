"""The loops of :mod:`layerpipe2.strategies.sweeps` as machine code for CPUs, by numba; vectors are given by address.

An address is an int, which numba takes in a tenth of the time of an array. All arithmetic is IEEE's, operation by
operation, but for the sums of a scalar product, whose order is the vector unit's; so a stage gets the same bits in a
simulation and in a process of its own. The last argument of each loop is a zero of the vectors' type.

``..._all`` do the same in all stages, whose arguments are the rows of an int64 table.
"""

import math
from functools import partial
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from layerpipe2.compiling import compiled

COUNT = np.int64(0)
"""Stands for the type of counters."""
CHUNK = 4096
"""Numbers of each vector that one step takes at a time: five vectors of float32 fit a second-level cache."""


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any, like: Any) -> Any:
    def convert(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(types.intp, like), convert


@intrinsic  # type: ignore[untyped-decorator]
def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a b + c``, rounded once, as torch adds a multiple."""

    def fused(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), fused


@compiled
def _at(address: Any, n: Any, like: Any) -> Any:
    return numba.carray(_pointer(address, like), n)


@compiled
def move(n: Any, average: Any, before: Any, after: Any, gains: Any, last: Any, step: Any, zero: Any) -> None:
    """``E <- E + g (before - after - E)``, ``g`` the entry of ``gains`` (last + 1,) for the step (1,)."""
    gain = _at(gains, last + 1, zero)[min(_at(step, 1, COUNT)[0], last)]
    e, w, v = _at(average, n, zero), _at(before, n, zero), _at(after, n, zero)
    for i in range(n):
        e[i] += gain * ((w[i] - v[i]) - e[i])


@compiled
def add(n: Any, out: Any, latest: Any, average: Any, lag: Any, zero: Any) -> None:
    """``out <- latest + lag E``, with the lag (1,)."""
    times = type(zero)(_at(lag, 1, COUNT)[0])
    r, w, e = _at(out, n, zero), _at(latest, n, zero), _at(average, n, zero)
    for i in range(n):
        r[i] = w[i] + times * e[i]


@partial(compiled, fastmath={"reassoc"})
def _products(newest: Any, before: Any, after: Any, zero: Any) -> Any:
    """``<u, u_0>`` and ``(<u, u> + <u_0, u_0>) / 2``."""
    cross, square = zero, zero
    for i in range(len(newest)):
        update = before[i] - after[i]
        cross += update * newest[i]
        square += update * update + newest[i] * newest[i]
    return cross, square / type(zero)(2)


@compiled
def _row(cross: Any, square: Any, edges: Any, zero: Any) -> Any:
    """The number of the table's row for the correlation ``cross / square``."""
    correlation = cross / max(square, np.finfo(type(zero)).tiny)
    row = 0
    while row < len(edges) - 1 and edges[row] < correlation:  # a correlation that is not a number is none
        row += 1
    return row


@compiled
def move_pair(
    n: Any,
    average: Any,
    newest: Any,
    before: Any,
    after: Any,
    products: Any,
    row: Any,
    table: Any,
    edges: Any,
    rows: Any,
    step: Any,
    span: Any,
    memory: Any,
    zero: Any,
) -> None:
    """What :class:`layerpipe2.strategies.pair.Pair` does with an update."""
    a, u, w, v = _at(average, n, zero), _at(newest, n, zero), _at(before, n, zero), _at(after, n, zero)
    kept, chosen = _at(products, 2, zero), _at(row, 3, zero)
    found = _products(u, w, v, zero)
    for i in range(2):
        kept[i] += type(zero)(1 - memory) * (found[i] - kept[i])
    best = 3 * _row(kept[0], kept[1], _at(edges, rows, zero), zero)
    for i in range(3):
        chosen[i] = _at(table, 3 * rows, zero)[best + i]
    updates = _at(step, 1, COUNT)[0]
    gain = type(zero)(1) / type(zero)(max(updates, 1)) if updates < _at(span, 1, COUNT)[0] else chosen[0]
    for i in range(n):
        a[i] += gain * (u[i] - a[i])
        u[i] = w[i] - v[i]


@compiled
def add_pair(
    n: Any, out: Any, latest: Any, average: Any, newest: Any, row: Any, step: Any, span: Any, zero: Any
) -> None:
    """``out <- latest + x A + y u_0``; while the pipeline fills, ``x`` is the number of updates but the newest."""
    x, y = _at(row, 3, zero)[1:]
    updates = _at(step, 1, COUNT)[0]
    if updates <= _at(span, 1, COUNT)[0]:
        x, y = type(zero)(updates - 1), type(zero)(1)
    r, w, a, u = _at(out, n, zero), _at(latest, n, zero), _at(average, n, zero), _at(newest, n, zero)
    for i in range(n):
        r[i] = w[i] + x * a[i] + y * u[i]


@compiled
def move_all(stages: Any, table: Any, step: Any, zero: Any) -> None:
    """:func:`move` of stages with the row ``before, n, after, length of gains, average, gains``."""
    for before, n, after, gains, average, gain in _at(table, (stages, 6), COUNT):
        move(n, average, before, after, gain, gains - 1, step, zero)


@compiled
def add_all(stages: Any, table: Any, step: Any, zero: Any) -> None:
    """:func:`add` in stages with the row ``n, out, latest, average, lag``."""
    for n, out, latest, average, lag in _at(table, (stages, 5), COUNT):
        add(n, out, latest, average, lag, zero)


@compiled
def move_pair_all(stages: Any, table: Any, step: Any, memory: Any, zero: Any) -> None:
    """:func:`move_pair` of stages with the row ``before, n, after, length of edges``, its state."""
    for before, n, after, rows, average, newest, products, row, choices, span, edges in _at(table, (stages, 11), COUNT):
        move_pair(n, average, newest, before, after, products, row, choices, edges, rows, step, span, memory, zero)


@compiled
def add_pair_all(stages: Any, table: Any, step: Any, zero: Any) -> None:
    """:func:`add_pair` in stages with the row ``n, out, latest, average, newest, row, span``."""
    for n, out, latest, average, newest, row, span in _at(table, (stages, 7), COUNT):
        add_pair(n, out, latest, average, newest, row, step, span, zero)


@compiled
def copy_all(vectors: Any, table: Any, zero: Any) -> None:
    """Copies of vectors with the row ``source, target, n``."""
    for source, target, n in _at(table, (vectors, 3), COUNT):
        a, b = _at(source, n, zero), _at(target, n, zero)
        for i in range(n):
            b[i] = a[i]


@compiled
def _decayed(w: Any, decay: Any, gradient: Any) -> Any:
    return _fma(w, decay, gradient) if decay else gradient  # w may be infinite


@compiled
def _sgd(n: Any, parameter: Any, gradient: Any, buffer: Any, numbers: Any, zero: Any) -> None:
    """The step of :class:`torch.optim.SGD`, in its order; no buffer (0): no momentum."""
    kind = type(zero)
    rate, decay, momentum = kind(numbers[0]), kind(numbers[1]), kind(numbers[2])
    w, g = _at(parameter, n, zero), _at(gradient, n, zero)
    if not buffer:
        for i in range(n):
            w[i] = _fma(_decayed(w[i], decay, g[i]), -rate, w[i])
        return
    b = _at(buffer, n, zero)
    if numbers[3]:  # Nesterov
        for i in range(n):
            found = _decayed(w[i], decay, g[i])
            b[i] = b[i] * momentum + found
            w[i] = _fma(_fma(b[i], momentum, found), -rate, w[i])
    else:
        for i in range(n):
            b[i] = b[i] * momentum + _decayed(w[i], decay, g[i])
            w[i] = _fma(b[i], -rate, w[i])


@partial(compiled, error_model="numpy")
def _adamw(n: Any, parameter: Any, gradient: Any, mean: Any, square: Any, numbers: Any, zero: Any) -> None:
    """The step of :class:`torch.optim.AdamW`."""
    kind = type(zero)
    rate, root, shrink, eps = kind(numbers[0]), kind(numbers[1]), kind(1 - numbers[2]), kind(numbers[7])
    new, kept, fresh = kind(numbers[4]), kind(numbers[5]), kind(numbers[6])
    w, g, m, v = _at(parameter, n, zero), _at(gradient, n, zero), _at(mean, n, zero), _at(square, n, zero)
    for i in range(n):
        m[i] = _fma(g[i] - m[i], new, m[i])
        v[i] = v[i] * kept + fresh * g[i] * g[i]
        w[i] = w[i] * shrink - rate * (m[i] / (math.sqrt(v[i]) / root + eps))


@compiled
def step_all(parameters: Any, table: Any, settings: Any, zero: Any) -> None:
    """Updates of parameters and of what stands beside them, some numbers at a time, which stay in the cache.

    A row of the table is ``parameter, gradient, buffer, second buffer, n`` and :class:`layerpipe2.optim.Part`; with
    second buffers it is :func:`_adamw`. Each parameter has 8 float64 ``settings``.
    """
    scratch = np.full(CHUNK, zero)
    size = scratch.itemsize
    numbers = _at(settings, (parameters, 8), np.float64(0))
    for k in range(parameters):
        w, g, first, second, n, row, average, gains, last, updates = _at(table, (parameters, 10), COUNT)[k]
        done = 0
        while done < n:
            count, at = min(CHUNK, n - done), done * size
            before = row + at if row else scratch.ctypes.data
            if row or average:
                old, new = _at(before, count, zero), _at(w + at, count, zero)
                for i in range(count):
                    old[i] = new[i]
            if second:
                _adamw(count, w + at, g + at, first + at, second + at, numbers[k], zero)
            else:
                _sgd(count, w + at, g + at, first + at if first else 0, numbers[k], zero)
            if average:
                move(count, average + at, before, w + at, gains, last, updates, zero)
            done += count
