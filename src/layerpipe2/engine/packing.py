"""Several tensors in one: what crosses from stage to stage is a tensor, which may carry a tuple or dictionary of them.

So a mask, positions or a skip connection goes through the same delay lines, messages, checkpoints and memory accounts
as any activation, and autograd brings the gradients of all parts back in one vector. A stage that only hands a part on
holds it as long as its own delay demands, as hardware would.

A packed tensor is a vector of float32, or float64 if a part is: a header that says what it holds, then the numbers of
the parts. Narrower floats fit exactly; other types are carried as whole numbers below 65,536, each a 16-bit piece.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from layerpipe2.errors import UserError

_MAGIC = [20481.0, -30721.0, 12289.0, -40961.0]
"""A vector that begins so is a packed tensor."""

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_DTYPES = (*_FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_KINDS = (tuple, list, dict)
_BASE = 1 << 16
_SHORT = 64  # a header is read at once, if it is not longer


class _Part(NamedTuple):
    """One tensor of a packed one."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    key: str

    @property
    def numbers(self) -> int:
        """How many the vector has of it."""
        pieces = 1 if self.dtype in _FLOATS else max(1, self.dtype.itemsize // 2)
        return pieces * int(torch.Size(self.shape).numel())


class _Layout(NamedTuple):
    """What a packed tensor holds."""

    kind: int
    parts: tuple[_Part, ...]


def pack(value: Any, stage: int | None = None) -> Tensor:
    """``value``, a tensor or a flat tuple, list or mapping of tensors, as one tensor; see :func:`unpack`.

    Args:
        value: what a stage returns, or a mini-batch's inputs.
        stage: its number, for messages.

    Raises:
        UserError: if it is something else.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, tuple | list | Mapping):
        raise _refused(stage, f"a {type(value).__name__}")
    if not value:
        raise _refused(stage, f"a {type(value).__name__} without anything")
    keys = list(map(str, value)) if isinstance(value, Mapping) else [""] * len(value)
    tensors = list(value.values()) if isinstance(value, Mapping) else list(value)
    for part in tensors:
        if not isinstance(part, Tensor) or part.dtype not in _DTYPES or part.layout is not torch.strided:
            found = f"{part.layout} {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
            raise _refused(stage, f"a {type(value).__name__} with a {found} in it")
    kind = 2 if isinstance(value, Mapping) else int(isinstance(value, list))
    parts = (_Part(t.dtype, tuple(t.shape), key) for t, key in zip(tensors, keys, strict=True))
    dtype = torch.float64 if any(t.dtype is torch.float64 for t in tensors) else torch.float32
    header = _header_tensor(_Layout(kind, tuple(parts)), dtype, tensors[0].device)
    return torch.cat([header, *(_numbers(t, dtype) for t in tensors)])


def unpack(x: Tensor) -> Any:
    """The tensors that ``x`` carries, as the tuple, list or dictionary that they were; ``x`` itself if it carries none.

    Floats of the vector's type are views of it. Gradients flow to ``x``.
    """
    layout = _layout_of(x)
    if layout is None:
        return x
    begin = len(_header(layout))
    ends = accumulate((part.numbers for part in layout.parts), initial=begin)
    values = [_restored(x[a:b], part) for (a, b), part in zip(pairwise(ends), layout.parts, strict=True)]
    if _KINDS[layout.kind] is dict:
        return dict(zip((part.key for part in layout.parts), values, strict=True))
    return tuple(values) if _KINDS[layout.kind] is tuple else values


def is_packed(x: Tensor) -> bool:
    """Whether it carries several tensors; no vector does that comes up within a CUDA graph."""
    return _layout_of(x) is not None


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x``, or the floats that it carries, in another type."""
    return pack(tree_map(lambda part: part.to(dtype) if part.is_floating_point() else part, unpack(x)))


def _numbers(part: Tensor, dtype: torch.dtype) -> Tensor:
    flat = part.reshape(-1)
    if part.dtype in _FLOATS:
        return flat.to(dtype)
    if part.dtype.itemsize > 1:  # 16-bit pieces, as they lie in memory
        flat = flat.contiguous().view(torch.int16)
    return flat.to(dtype)


def _restored(numbers: Tensor, part: _Part) -> Tensor:
    if part.dtype in _FLOATS:
        return numbers.to(part.dtype).view(part.shape)
    numbers = numbers.detach()
    if part.dtype.itemsize > 1:
        return numbers.to(torch.int16).view(part.dtype).view(part.shape)
    return numbers.to(part.dtype).view(part.shape)


@lru_cache(maxsize=256)
def _header_tensor(layout: _Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(_header(layout), dtype=dtype, device=device)


@lru_cache(maxsize=256)
def _header(layout: _Layout) -> list[float]:
    """Magic, length of what follows, kind, and per part: type, dimensions, sizes, length of the key, key."""
    found = [layout.kind]
    for part in layout.parts:
        key = part.key.encode()
        sizes = [digit for size in part.shape for digit in divmod(size, _BASE)]
        found += [_DTYPES.index(part.dtype), len(part.shape), *sizes, len(key), *key]
    return [*_MAGIC, *map(float, divmod(len(found), _BASE)), *map(float, found)]


def _layout_of(x: Tensor) -> _Layout | None:
    if x.ndim != 1 or x.dtype not in (torch.float32, torch.float64) or x.is_meta:
        return None
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    begin = len(_MAGIC) + 2
    head = x[:_SHORT].tolist()
    if head[: len(_MAGIC)] != _MAGIC:
        return None
    end = begin + int(head[begin - 2]) * _BASE + int(head[begin - 1])
    return _parsed(tuple(head[begin:end] if end <= _SHORT else x[begin:end].tolist()))


@lru_cache(maxsize=256)
def _parsed(header: tuple[float, ...]) -> _Layout:
    found, parts, at = tuple(map(int, header)), [], 1
    while at < len(found):
        dtype, ndim = found[at : at + 2]
        at += 2
        digits = found[at : at + 2 * ndim]
        at += 2 * ndim
        shape = tuple(_BASE * high + low for high, low in zip(digits[::2], digits[1::2], strict=True))
        end = at + 1 + found[at]
        parts.append(_Part(_DTYPES[dtype], shape, bytes(found[at + 1 : end]).decode()))
        at = end
    return _Layout(found[0], tuple(parts))


def _refused(stage: int | None, found: str) -> UserError:
    whose = "the mini-batch's inputs are" if stage is None else f"stage {stage} returns"
    return UserError(f"{whose} {found}; give a tensor, or a flat tuple, list or dictionary of tensors")
