"""Tensors as one flat buffer of bytes: a header that says which tensors follow, then their memory.

A stage must get the very tensor that its neighbour in one process would hand it: with its strides, its gaps and its
alignment. Kernels choose their way by them, and then round differently.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from layerpipe2.engine.layout import is_dense
from layerpipe2.errors import UserError

_HEADER = 64  # int64 elements: number of tensors; of each (dtype, shift or -1, dimensions, sizes ..., strides ...)
_ALIGN = 64  # bytes, as torch's own allocations: some kernels round differently on other addresses
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_DTYPES = (*_FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)


def message_size(tensors: Sequence[Tensor]) -> int:
    """Bytes of the message that holds them."""
    return _HEADER * 8 + payload_size(tensors)


def payload_size(tensors: Sequence[Tensor]) -> int:
    """Bytes of the message without its header."""
    return sum(_padded(_once(t)) for t in tensors)


def pack(tensors: Sequence[Tensor], message: Tensor) -> None:
    """Copy the tensors into ``message``, uint8 of at least :func:`message_size` bytes, as :func:`pack_payload`."""
    header = pack_payload(tensors, message[_HEADER * 8 :])
    message[: _HEADER * 8].view(torch.int64).copy_(header)


def unpack(message: Tensor) -> list[Tensor]:
    """The tensors of a message: views of it, but for slices, which get memory of their own."""
    return unpack_payload(message[: _HEADER * 8].view(torch.int64), message[_HEADER * 8 :])


def pack_payload(tensors: Sequence[Tensor], payload: Tensor) -> Tensor:
    """Copy the tensors into ``payload``, uint8 of at least :func:`payload_size` bytes.

    Returns:
        The header, int64 of a fixed length, on the CPU.

    Raises:
        UserError: if the header can't describe them.
    """
    numbers, offset = [len(tensors)], 0
    for tensor in tensors:
        if tensor.dtype not in _DTYPES:
            known = ", ".join(str(dtype) for dtype in _DTYPES)
            raise UserError(f"a tensor of type {tensor.dtype} can't travel between processes; use one of {known}")
        once, shift = _once(tensor), tensor.data_ptr() % _ALIGN // tensor.element_size()
        as_it_is = is_dense(once) and not shift
        numbers += [_DTYPES.index(tensor.dtype), -1 if as_it_is else shift, tensor.ndim]
        numbers += [*tensor.shape, *tensor.stride()]
        _place(payload, offset, once.dtype, once.shape, once.stride() if as_it_is else None).copy_(once)
        offset += _padded(once)
    if len(numbers) > _HEADER:
        raise UserError(f"tensors of {[t.ndim for t in tensors]} dimensions can't travel together; flatten some")
    return _header(tuple(numbers))


@lru_cache(maxsize=64)
def _header(numbers: tuple[int, ...]) -> Tensor:
    """Return the header, which must not be written to: mini-batches of one size share it."""
    return torch.tensor(numbers + (0,) * (_HEADER - len(numbers)))


def unpack_payload(header: Tensor, payload: Tensor) -> list[Tensor]:
    """The tensors that :func:`pack_payload` put into ``payload``."""
    numbers = iter(header.tolist())
    tensors, offset = [], 0
    for _ in range(next(numbers)):
        dtype, shift, ndim = _DTYPES[next(numbers)], next(numbers), next(numbers)
        shape, stride = [next(numbers) for _ in range(ndim)], [next(numbers) for _ in range(ndim)]
        once = [n if s else min(n, 1) for n, s in zip(shape, stride, strict=True)]
        tensor = _place(payload, offset, dtype, once, stride if shift < 0 else None)
        offset += _padded(tensor)
        tensors.append((tensor if shift < 0 else _spread(tensor, stride, shift)).as_strided(shape, stride))
    return tensors


def _place(
    message: Tensor, offset: int, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int] | None
) -> Tensor:
    """A tensor's place in the message, by default in the order of its dimensions."""
    count = int(torch.Size(shape).numel())
    memory = message[offset : offset + count * dtype.itemsize].view(dtype)
    return memory.view(shape) if stride is None else memory.as_strided(shape, stride)


def _spread(tensor: Tensor, stride: Sequence[int], shift: int) -> Tensor:
    """Give a tensor the gaps (a slice) and the alignment that it had: kernels may round differently without."""
    span = shift + 1 + sum((n - 1) * s for n, s in zip(tensor.shape, stride, strict=True))
    return tensor.new_empty(span if tensor.numel() else 0).as_strided(tensor.shape, stride, shift).copy_(tensor)


def _once(tensor: Tensor) -> Tensor:
    """Without repetitions: an expanded tensor (the gradient of a mean) travels as the tensor before its expansion."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if not stride and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _padded(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGN) * _ALIGN
