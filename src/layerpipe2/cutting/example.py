"""One mini-batch, how a network takes it and which of its outputs counts; and the same with other sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.errors import UserError, shown

Axis = tuple[tuple[int, int], ...]
"""Input and dimension, of those whose size is one and the same."""


@dataclass(frozen=True)
class Example:
    """A mini-batch of a network's inputs.

    Attributes:
        tensors: the inputs (B, ...), in the order of the tuple that the first stage takes.
        names: theirs, where they are keyword arguments of ``forward``.
        alone: whether there is one, which the first stage takes as it is.
        output: which one of the network's outputs counts; ``None``: it has one.
    """

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...] = ()
    alone: bool = True
    output: str | None = None

    @classmethod
    def of(cls, network: nn.Module, example: Any, output: str | None = None) -> Example:
        """The user's ``example`` of inputs.

        Raises:
            UserError: if it isn't one mini-batch of tensors, or ``forward`` doesn't take them.
        """
        alone, names = isinstance(example, Tensor), tuple(example) if isinstance(example, Mapping) else ()
        parts = [example] if alone else list(example.values()) if names else example
        if not isinstance(parts, tuple | list) or not parts or not all(isinstance(name, str) for name in names):
            remedy = "give a mini-batch (B, ...): a tensor, a tuple in forward's order, or a mapping of its arguments"
            raise UserError(f"example is {shown(example)}; {remedy}")
        made = cls(tuple(parts), names, alone, output)
        for i, part in enumerate(parts):
            if not isinstance(part, Tensor) or not part.dim() or len(part) != len(parts[0]) or not len(part):
                found = f"of shape {list(part.shape)}" if isinstance(part, Tensor) else shown(part)
                raise UserError(f"{made.name(i)} is {found}; give a mini-batch (B, ...), each input with B samples")
        if not network._forward_pre_hooks:  # which may change them
            made._check_taken(network)
        return made

    def _check_taken(self, network: nn.Module) -> None:
        signature = inspect.signature(network.forward)
        try:
            self.call(signature.bind, self.value)
        except TypeError as error:
            remedy = "give example= a tuple of its positional arguments, or a mapping of those that have names"
            raise UserError(f"example doesn't fit the network's forward: {error}; {remedy}") from None

    @property
    def value(self) -> Any:
        """What the first stage takes."""
        return self.tensors[0] if self.alone else self.tensors

    @property
    def device(self) -> torch.device:
        """That of the inputs."""
        return self.tensors[0].device

    @property
    def shapes(self) -> list[torch.Size]:
        """Those of the inputs."""
        return [tensor.shape for tensor in self.tensors]

    def other_lengths(self, other: Example) -> bool:
        """Whether the two differ in more than the number of samples."""
        return [shape[1:] for shape in self.shapes] != [shape[1:] for shape in other.shapes]

    def __str__(self) -> str:
        shapes = ", ".join(str(list(shape)) for shape in self.shapes)
        return f"an input of shape {shapes}" if self.alone else f"inputs of shapes {shapes}"

    def name(self, i: int) -> str:
        """What an input is called in messages."""
        return "the input" if self.alone else f"input {shown(self.names[i]) if self.names else i}"

    def call(self, function: Callable[..., Any], value: Any) -> Any:
        """What ``function`` returns for ``value`` in the place of these inputs."""
        if self.names:
            return function(**dict(zip(self.names, value, strict=True)))
        return function(value) if self.alone else function(*value)

    def of_each(self, function: Callable[[Tensor], Tensor]) -> Example:
        """The same with what ``function`` makes of each input."""
        return replace(self, tensors=tuple(map(function, self.tensors)))

    def leaves(self) -> Example:
        """Copies of the inputs, of which floats get a gradient."""
        return self.of_each(lambda x: x.detach().clone().requires_grad_(x.is_floating_point()))

    def axes(self) -> list[Axis]:
        """Samples first; then the others: each alone for one input, those of one size together for several."""
        dims = [(i, d) for i, x in enumerate(self.tensors) for d in range(1, x.dim())]
        groups: dict[int, list[tuple[int, int]]] = {}
        for i, d in dims:
            groups.setdefault(d if self.alone else self.tensors[i].shape[d], []).append((i, d))
        return [tuple((i, 0) for i in range(len(self.tensors))), *map(tuple, groups.values())]

    def size(self, axis: Axis) -> int:
        """How long it is."""
        return self.tensors[axis[0][0]].shape[axis[0][1]]

    def resized(self, axis: Axis, size: int) -> Example:
        """The same, cut off or with the first entry once more, along an axis."""
        tensors = list(self.tensors)
        for i, d in axis:
            x = tensors[i]
            longer = size > x.shape[d]
            tensors[i] = torch.cat([x, x.narrow(d, 0, 1)], d) if longer else x.narrow(d, 0, size)
        return replace(self, tensors=tuple(tensors))

    def with_other_sizes(self, axis: Axis) -> Iterator[Example]:
        """One sample more; or of another axis half of it, or a little less."""
        size = self.size(axis)
        sizes: Sequence[int] = [size + 1] if axis[0][1] == 0 else [size // 2, size - 1] if size > 1 else []
        return (self.resized(axis, other) for other in sizes)
