"""Refuse what reaches a stage other than through its input: in real processes it would not be there, or be another.

The simulation runs all stages in one process, so that a layer may read what a layer of another stage has left in an
attribute, a list or a global name: a skip connection, a weight, the features of an auxiliary loss. While an audited
pass runs, every operation is seen with its inputs. Memory belongs to the stage that wrote it, if what it wrote depends
on the batch, on weights or on random numbers (constants are everybody's); it belongs to the next one as well, if it is
that one's input. What a stage returns may depend on memory of its own only, and who follows the graph back must come
out at the input; what layers sum up beside that for somebody to look at is free. The loss belongs to the last stage.

In a process the same is seen between its own stages, and of weights of others that somebody has kept.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from layerpipe2.engine.saved_weights import storage_of
from layerpipe2.errors import UserError

_OVERWRITING = {"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_"}
"""Operations that don't read the tensor they write to."""

Edge = tuple[Any, int]
Owned = Callable[[], Iterable[tuple[int, Tensor]]]


class SideChannels:
    """What belongs to which stage, over all audited passes of one process.

    Args:
        owned: gives all parameters that may move, with the number of their stage.
    """

    def __init__(self, owned: Owned) -> None:
        self.owned = owned
        self._kept: list[tuple[StorageWeakRef, _Mark]] = []
        self._clear()

    def _clear(self) -> None:
        self._stage, self._who = 0, ""
        self._weights: dict[int, int] = {}
        self._held: list[torch.UntypedStorage] = []
        self._marks: dict[int, _Mark] = {}
        self._alive: list[torch.UntypedStorage] = []
        self._nodes: dict[Any, int] = {}
        self._targets: set[int] = set()
        self._input: tuple[Tensor, int] | None = None
        self._edges: set[Edge | None] = set()
        self._base: Edge | None = None

    def begin(self) -> None:
        """A pass begins: what earlier ones have made and is still there belongs to the same stages."""
        kept, self._kept = self._kept, []
        self._clear()
        for reference, mark in kept:
            storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
            if storage is not None:
                self._marks[storage.data_ptr()] = mark
                self._alive.append(storage)
        for stage, parameter in self.owned():
            if parameter.layout is not torch.strided or parameter.is_meta:
                continue
            self._held.append(parameter.untyped_storage())  # else its address may go to another within the pass
            memory = storage_of(parameter)
            self._weights[memory] = stage if self._weights.get(memory, stage) == stage else -1  # -1: of several

    def end(self, with_loss: bool = False) -> None:
        """The pass is over; what it has made may go, but where :meth:`watch_loss` follows."""
        if not with_loss:
            found = ((one, self._marks.get(one.data_ptr())) for one in self._alive)
            self._kept = [(StorageWeakRef(one), mark) for one, mark in found if mark is not None]  # type: ignore[no-untyped-call]
            self._clear()

    def enter(self, stage: int, x: Tensor) -> None:
        """From now on operations are those of ``stage``, whose input is ``x``."""
        self._stage, self._who = stage, f"stage {stage}"
        edge = None if x.grad_fn is None else (x.grad_fn, x.output_nr)
        self._input, self._edges, self._base = (x, x._version), {edge}, _base_edge(x)
        if stage or _fills(x):  # else mini-batches may be views of the data, which others may hold as well
            known = self._marks.get(storage_of(x))
            self._note(x, _Mark({stage} if known is None else {stage, *known.stages}, ""))

    def watch_loss(self, compute: Callable[[], Any], targets: Sequence[Tensor]) -> Any:
        """The loss that ``compute`` gives, on the part of the stage that came last; it may read ``targets``.

        Raises:
            UserError: if it reads what is another stage's.
        """
        self._who, self._targets = "the loss", set(map(storage_of, targets))
        with _Watch(self):
            value = compute()
        if isinstance(value, Tensor):
            self.check(value)
        self.end()
        return value

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]) -> None:
        """An operation of the present stage, to which what it makes belongs from now on."""
        kind = _kind_of(func)
        if not kind.computes:
            return
        overwritten = tensors_of([args[0] if kind.overwrites else (), *(kwargs.get(name) for name in kind.outs)])
        given = {name: value for name, value in kwargs.items() if name not in kind.outs}
        read = tensors_of((args[1:] if kind.overwrites else args, given))
        marks = [mark for mark in map(self._mark_of, read) if mark is not None]
        for tensor in filter(_fills, overwritten):
            self._marks.pop(storage_of(tensor), None)
        if (kind.draws and kwargs.get("generator") is None) or marks:
            foreign = next((mark.foreign for mark in marks if mark.foreign), "")
            for made in (*outputs, *_statistics(kind, args)):
                self._note(made, _Mark({self._stage}, foreign))

    def _mark_of(self, tensor: Tensor) -> "_Mark | None":
        """Return the mark of a tensor as the present stage sees it; ``None`` for constants."""
        memory = storage_of(tensor)
        weights_of = self._weights.get(memory, -1)
        if weights_of >= 0:
            return _Mark({weights_of}, "" if weights_of == self._stage else f"a weight of stage {weights_of}")
        mark = self._marks.get(memory)
        if mark is None or mark.foreign or self._stage in mark.stages or memory in self._targets:
            return mark
        return _Mark(mark.stages, f"a value of stage {min(mark.stages)}")

    def check(self, outputs: Tensor) -> None:
        """Look at the present stage's outputs, or at the loss, and follow their graph.

        Raises:
            UserError: if another stage has a part in them other than by the stage's input.
        """
        assert self._input is not None, "no stage was entered"
        self._refuse(self._mark_of(outputs))
        x, version = self._input
        stops = self._edges if x._version == version else {*self._edges, self._base}
        todo: list[Edge] = [] if outputs.grad_fn is None else [(outputs.grad_fn, outputs.output_nr)]
        mine: set[Any] = set()
        while todo:
            node, number = todo.pop()
            if node is None or node in mine or (node, number) in stops:
                continue
            made_by = self._nodes.get(node, self._stage)
            if made_by != self._stage:
                self._refuse(_Mark({made_by}, f"a value of stage {made_by}"))
            if node.name() == "torch::autograd::AccumulateGrad":
                self._refuse(self._mark_of(node.variable))
            mine.add(node)
            todo += node.next_functions
        self._nodes.update(dict.fromkeys(mine, self._stage))

    def _note(self, tensor: Tensor, mark: "_Mark") -> None:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in self._marks:
            self._alive.append(memory)
        self._marks[memory.data_ptr()] = mark

    def _refuse(self, mark: "_Mark | None") -> None:
        if mark is not None and mark.foreign:
            raise UserError(
                f"{self._who} computes with {mark.foreign} that doesn't come by its input (kept in an attribute, list "
                "or global?), which another process doesn't have; pass it on from stage to stage within their one "
                "tensor, or put both layers into one stage"
            )


class _Mark(NamedTuple):
    """Says what a piece of memory holds that has something else than constants.

    Attributes:
        stages: those to which it belongs.
        foreign: what has a part in it that did not belong to the stage which read it; empty: nothing.
    """

    stages: set[int]
    foreign: str


class _Kind(NamedTuple):
    """What an operation does, whatever its arguments.

    Attributes:
        computes: whether its results depend on the values of its arguments, and aren't views of them.
        overwrites: whether it writes to its first argument without reading it.
        draws: whether it draws random numbers.
        outs: names of arguments that it only writes to.
        normalizes: whether it may move running statistics.
    """

    computes: bool
    overwrites: bool
    draws: bool
    outs: tuple[str, ...]
    normalizes: bool


@cache
def _kind_of(func: Any) -> _Kind:
    name, draws = func.overloadpacket.__name__, torch.Tag.nondeterministic_seeded in func.tags
    shaped = name.startswith("new_") or (name.endswith("_like") and not draws)
    outs = tuple(one.name for one in func._schema.arguments if one.is_out)
    normalizes = "batch_norm" in name and "backward" not in name
    return _Kind(not func.is_view and not shaped, name in _OVERWRITING, draws, outs, normalizes)


def _statistics(kind: _Kind, args: Sequence[Any]) -> list[Tensor]:
    """Running mean and variance that a normalisation moves, though its schema doesn't say so."""
    return tensors_of(args[3:5]) if kind.normalizes and args[5] is not False else []


def _fills(tensor: Tensor) -> bool:
    """Whether the tensor is all that there is in its memory."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _base_edge(x: Tensor) -> Edge | None:
    """Return where the graph of a view goes on when it is changed in place."""
    base = x._base
    return None if base is None or base.grad_fn is None else (base.grad_fn, base.output_nr)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows each operation to the channels."""

    def __init__(self, channels: SideChannels) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._channels = channels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._channels.see(func, args, kwargs, tensors_of(result))
        return result


def tensors_of(tree: Any) -> list[Tensor]:
    """Strided tensors with elements in the arguments or results of an operator; faster than torch's own trees."""
    if isinstance(tree, Tensor):
        return [tree] if tree.layout is torch.strided and tree.numel() else []
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]
