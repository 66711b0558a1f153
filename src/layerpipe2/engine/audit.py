"""Refuse what would let a backward pass escape the recalled weights, while one forward pass runs.

The exchange of saved tensors (:mod:`layerpipe2.engine.saved_weights`) reaches every view of the compute weights
that autograd saves. What it can't reach is a *copy* of them, a tensor saved by somebody else's hooks, and what an
autograd function keeps by itself. None of it would fail: the strategy would silently train like exact stashing, in
part.

Known limits, which are not refused:

- an autograd function may reach weights through a global name;
- a path that is taken only in steps that are not audited (layers dropped at random).

A weight that is concatenated with activations (prefix tuning), or looked up by an embedding, counts as an activation
from there on, which hardware would store.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerpipe2.engine.saved_weights import Region, as_bytes, changed_in_forward, storage_of
from layerpipe2.errors import UserError

# A weight times a constant is a weight, unless a matrix product multiplies it by zeros: those are an activation that
# doesn't depend on the batch, the state that a recurrent layer starts from.
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution", "_trilinear"}
_FACTORS = {"addmm": (1, 3), "baddbmm": (1, 3), "addmv": (1, 3), "convolution": (0, 2)}
"""Where the factors stand among the arguments, if not everywhere."""

_CHOICES = {"index", "index_select", "gather", "take", "where", "masked_fill"}
"""Operations whose integers and booleans choose among elements."""


class Audit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows which tensors depend on the batch, and which are *weight-made*: from weights but not from the batch.

    Costs a dispatch per operation: one step per epoch.

    Args:
        regions: those whose views are exchanged.
        batch: the input.
        unexchanged: others, which must only stay as they are (exact stashing).
    """

    def __init__(self, regions: list[Region], batch: Tensor, unexchanged: Sequence[Region] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.regions = regions
        self._before = [(region, region.compute.clone()) for region in (*regions, *unexchanged)]
        self._made = {storage_of(region.compute): region.stage for region in regions}
        every = (*regions, *unexchanged)
        computes = {storage_of(one.compute) for one in every}
        others = {storage_of(row): one.stage for one in every for row in one.other}
        self._other = {memory: stage for memory, stage in others.items() if memory not in computes}
        self._data = {storage_of(batch)}
        self._alive: list[Tensor] = [batch]
        self._hooks: Any = None

    def __enter__(self) -> Self:
        """Whoever hooks saved tensors now may do so, nobody else while this runs."""
        self._hooks = _hooks_of_this_thread()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _hooks_of_this_thread() != self._hooks:
            raise UserError(
                "a stage hooks the tensors that autograd saves (activation checkpointing or offloading), so recalled "
                "weights can't reach its backward pass; train without it"
            )
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        for stage in (self._other[s] for s in map(storage_of, inputs) if s in self._other):
            raise UserError(
                f"stage {stage} keeps a view of its weights from before this forward pass; make it anew in each, since "
                "a delayed stage computes with other memory every time"
            )
        stages = [self._made[s] for s in map(storage_of, inputs) if s in self._made]
        if stages and any(isinstance(t, Tensor) and t.layout is not torch.strided for t in tree_leaves(result)):
            raise UserError(
                f"stage {stages[0]} makes a sparse copy of its weights, where recalled weights can't reach it; compute "
                "with the dense ones"
            )
        if stages and name in _CHOICES:
            # Weights that the batch only chooses, as a mixture of experts does, stay weights.
            inputs = [t for t in inputs if t.is_floating_point()]
        if name.startswith("new_") or name.endswith("_like"):
            pass  # a shape and a type; no value
        elif any(storage_of(t) in self._data for t in inputs):
            self._data.update(map(storage_of, outputs))
        elif stages and not (name in _PRODUCTS and self._by_zeros(name, args)):
            for made in outputs:
                self._made.setdefault(storage_of(made), stages[0])
        self._alive += outputs  # a freed address would be given to the next tensor
        return result

    def _by_zeros(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether one factor of a matrix product is zero and no weight; what is added does not count."""
        first, last = _FACTORS.get(name, (0, len(args)))
        return any(storage_of(t) not in self._made and not t.any() for t in _tensors(args[first:last]))

    def check_saved(self, tensor: Tensor) -> None:
        """Refuse to save ``tensor``, no view of compute weights, if it is weight-made.

        Raises:
            UserError: naming the stage.
        """
        stage = self._made.get(storage_of(tensor))
        if stage is not None and storage_of(tensor) not in self._data:
            raise UserError(
                f"stage {stage} saves a tensor made from its weights for the backward pass (shape "
                f"{list(tensor.shape)}, {tensor.dtype}), where recalled weights can't reach it; train without autocast "
                "(the pipeline has precision='bf16') and without weights made from weights (weight or spectral norm, "
                "masks, merged adapters)"
            )

    def finish(self, outputs: Tensor) -> None:
        """Refuse autograd functions that keep weights by themselves, and layers that change weights in their forward.

        Raises:
            UserError: naming the function or the stage.
        """
        weights = {storage_of(region.compute) for region in self.regions}
        for node in _graph(outputs):
            mine = _tensors([_reachable(value) for value in getattr(node, "__dict__", {}).values()])
            kept = [s for s in map(storage_of, mine) if s in weights or (s in self._made and s not in self._data)]
            if kept or any(isinstance(t, nn.Parameter) for t in mine) or "CheckpointFunction" in node.name():
                raise UserError(
                    f"autograd function {node.name()} keeps weights where recalled ones can't reach them; use "
                    "ctx.save_for_backward, and no activation checkpointing"
                )
        for region, before in self._before:
            if not torch.equal(as_bytes(region.compute), as_bytes(before)):
                raise changed_in_forward(region.stage)


def _hooks_of_this_thread() -> Any:
    """What autograd shows the tensors that it saves now."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _tensors(tree: Any) -> list[Tensor]:
    """Strided tensors with elements in the arguments or results of an operator; faster than torch's own trees."""
    if isinstance(tree, Tensor):
        return [tree] if tree.layout is torch.strided and tree.numel() else []
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _reachable(value: Any, depth: int = 3) -> Any:
    """What an autograd function keeps, and the weights of a module or the closure of a function that it keeps."""
    owner = getattr(value, "__self__", value)
    if isinstance(owner, nn.Module):
        return list(owner.parameters())
    if isinstance(value, partial):
        return [_reachable(part, depth - 1) for part in (value.func, *value.args, *value.keywords.values())]
    cells = getattr(value, "__closure__", None) or ()
    return [_reachable(cell.cell_contents, depth - 1) for cell in cells] if cells and depth else value


def _graph(outputs: Tensor) -> Iterator[Any]:
    seen: set[Any] = set()
    todo: list[Any] = [outputs.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += [following for following, _ in node.next_functions]
