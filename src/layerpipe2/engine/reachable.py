"""What an autograd function can reach from what it keeps: a bounded walk through Python objects."""

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_MOST = 10_000
"""Objects that one walk looks at."""

_LEAVES = (str, bytes, int, float, complex, type, ModuleType, torch.dtype, torch.device, torch.Generator)


def reachable(value: Any) -> Iterator[Tensor | np.ndarray]:
    """Tensors and arrays of numbers that ``value`` leads to.

    Through containers, attributes (``__dict__`` and ``__slots__``), closures, defaults, bound methods and weak
    references. Of a module: its parameters. Not through global names.
    """
    todo: deque[Any] = deque([value])
    seen: dict[int, Any] = {}
    while todo and len(seen) < _MOST:
        one = todo.popleft()
        if one is None or isinstance(one, _LEAVES) or id(one) in seen:
            continue
        seen[id(one)] = one  # alive, so that no other gets its address
        if isinstance(one, torch.TypedStorage):
            one = one.untyped()  # type: ignore[no-untyped-call]
        if isinstance(one, torch.UntypedStorage):
            one = torch.empty(0, dtype=torch.uint8, device=one.device).set_(one)
        if isinstance(one, Tensor) or (isinstance(one, np.ndarray) and not one.dtype.hasobject):
            yield one
        else:
            todo += _parts(one)


def _parts(one: Any) -> Iterable[Any]:
    if isinstance(one, nn.Module):
        return list(one.parameters())
    if isinstance(one, np.ndarray):
        return list(one.flat)
    if isinstance(one, Mapping):
        return [*one.keys(), *one.values()]
    if isinstance(one, list | tuple | set | frozenset | deque):
        return list(one)
    if isinstance(one, partial):
        return [one.func, *one.args, *one.keywords.values()]
    if isinstance(one, MethodType):
        return [one.__self__, one.__func__]
    if isinstance(one, FunctionType):
        return [*(one.__closure__ or ()), *(one.__defaults__ or ()), one.__kwdefaults__, one.__dict__]
    if isinstance(one, CellType):
        return _filled(one)
    if isinstance(one, weakref.ref):
        return [one()]
    return _attributes(one)


def _filled(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not assigned yet
        return []


def _attributes(one: Any) -> list[Any]:
    own = [*getattr(one, "__dict__", {}).values(), getattr(one, "__self__", None)]
    for kind in type(one).__mro__:
        names = kind.__dict__.get("__slots__", ())
        own += [getattr(one, name, None) for name in ([names] if isinstance(names, str) else names)]
    return own
