"""Refuse what would let a backward pass escape the recalled weights, while one forward pass runs.

The exchange of saved tensors (:mod:`layerpipe2.engine.saved_weights`) reaches every view of the compute weights
that autograd saves. What it can't reach is a *copy* of them, a tensor saved by somebody else's hooks, and what an
autograd function keeps by itself. None of it would fail: the strategy would silently train like exact stashing, in
part.

It also shows every operation to :mod:`layerpipe2.engine.side_channels`, which refuses what comes from another stage.

Known limits, which are not refused (``tests/engine/test_known_limits.py`` has an example of each):

- an autograd function may reach weights through a global name, or as numbers or bytes that Python holds;
- a path that is taken only in steps that are not audited (layers dropped at random);
- a value that goes from stage to stage as a Python number, a file or an array's copy;
- what hooks and autograd functions of two stages exchange in the backward pass;
- the input of a stage that returned it as it was, which a later stage reads by another name;
- a generator of random numbers of their own that two stages share;
- a value that waits for more than one mini-batch before another stage reads it.

A weight that is concatenated with activations (prefix tuning), or looked up by an embedding, counts as an activation
from there on, which hardware would store.
"""

import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointFunction

from layerpipe2.engine.reachable import reachable
from layerpipe2.engine.saved_weights import Region, as_bytes, changed_in_forward, storage_of
from layerpipe2.engine.side_channels import SideChannels, tensors_of
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
        channels: is shown every operation.
        exact: whether recalled weights are those of the forward pass, so that copies of these do no harm.
    """

    def __init__(
        self,
        regions: list[Region],
        batch: Tensor,
        unexchanged: Sequence[Region] = (),
        channels: SideChannels | None = None,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.regions, self.channels, self._exact = regions, channels, exact
        every = (*regions, *unexchanged)
        self._before = [(region, region.compute.clone()) for region in every]
        self._made = {storage_of(region.compute): region.stage for region in regions}
        computes = {storage_of(one.compute) for one in every}
        self._other = _Memory((row, one.stage) for one in every for row in one.other if storage_of(row) not in computes)
        self._data = {storage_of(batch)}
        self._alive: list[Tensor] = [batch]
        self._hooks: Any = None

    def __enter__(self) -> Self:
        """Whoever hooks saved tensors now may do so, nobody else while this runs."""
        self._hooks = _hooks_of_this_thread()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def enter(self, stage: int, x: Tensor) -> None:
        """From now on operations are those of ``stage``, whose input is ``x``."""
        if self.channels is not None:
            self.channels.enter(stage, x)

    def leave(self, outputs: Tensor) -> None:
        """The stage has returned ``outputs``.

        Raises:
            UserError: if another stage has a part in them other than by the input.
        """
        if self.channels is not None:
            self.channels.check(outputs)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        follows = bool(self._before)
        if follows and _hooks_of_this_thread() != self._hooks:
            raise UserError(
                "a stage hooks the tensors that autograd saves (activation checkpointing or offloading), so recalled "
                "weights can't reach its backward pass; train without it"
            )
        result = func(*args, **kwargs)
        outputs = tensors_of(result)
        if follows:
            self._follow(func.overloadpacket.__name__, args, kwargs, result, outputs)
        if self.channels is not None:
            self.channels.see(func, args, kwargs, outputs)
        self._alive += outputs  # a freed address would be given to the next tensor
        return result

    def _follow(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any, outputs: list[Tensor]
    ) -> None:
        """Whether what the operation makes is an activation, a weight, or neither."""
        inputs = tensors_of((args, kwargs))
        for stage in (found for found in map(self._other.stage_of, inputs) if found is not None):
            raise UserError(
                f"stage {stage} keeps a view of its weights from before this forward pass; make it anew in each, since "
                "a delayed stage computes with other memory every time"
            )
        stages = [self._made[s] for s in map(storage_of, inputs) if s in self._made]
        if not torch.is_grad_enabled() and self._reads_weights(inputs) and _within_reentrant_checkpoint():
            raise _keeps_weights("CheckpointFunction")
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

    def _reads_weights(self, inputs: list[Tensor]) -> bool:
        weights = {storage_of(region.compute) for region, _ in self._before}
        return any(storage_of(t) in weights for t in inputs)

    def _by_zeros(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether one factor of a matrix product is zero and no weight; what is added does not count."""
        first, last = _FACTORS.get(name, (0, len(args)))
        return any(storage_of(t) not in self._made and not t.any() for t in tensors_of(args[first:last]))

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
        weights = _Memory((region.compute, region.stage) for region in self.regions)
        for node in graph_of(outputs):
            if "CheckpointFunction" in node.name():
                raise _keeps_weights(node.name())
            kept = getattr(node, "__dict__", None)
            if kept and any(self._hides(one, weights) for one in reachable(kept)):
                raise _keeps_weights(node.name())
        for region, before in self._before:
            if not torch.equal(as_bytes(region.compute), as_bytes(before)):
                raise changed_in_forward(region.stage)

    def _hides(self, kept: Tensor | np.ndarray, weights: "_Memory") -> bool:
        """Whether what an autograd function keeps is a weight, or was made from weights by torch or by NumPy."""
        if isinstance(kept, np.ndarray):
            return kept.size > 0 and self._hides_array(kept, weights)
        if kept.layout is not torch.strided or not kept.numel():
            return False
        memory = storage_of(kept)
        return weights.stage_of(kept) is not None or (memory in self._made and memory not in self._data)

    def _hides_array(self, kept: np.ndarray, weights: "_Memory") -> bool:
        return weights.stage_at(kept.ctypes.data) is not None or self._equals_weights(kept)

    def _equals_weights(self, array: np.ndarray) -> bool:
        """Whether the array has the numbers of a weight, in any order."""
        if self._exact or self.channels is None or array.dtype.kind != "f" or array.min() == array.max():
            return False
        stages = {region.stage for region in self.regions}
        alike = (p for k, p in self.channels.owned() if k in stages and p.numel() == array.size)
        numbers = np.sort(array.astype(np.float64), axis=None)
        return any(np.array_equal(numbers, p.detach().double().flatten().sort()[0].cpu().numpy()) for p in alike)


class _Memory:
    """Which stage a piece of memory belongs to, also where NumPy has a view of a part of it."""

    def __init__(self, parts: Iterable[tuple[Tensor, int]]) -> None:
        found = {storage_of(one): (one.untyped_storage().nbytes(), stage) for one, stage in parts}
        self._starts = sorted(found)
        self._ends = [(start + found[start][0], found[start][1]) for start in self._starts]

    def stage_of(self, tensor: Tensor) -> int | None:
        """``None`` for memory of others."""
        return self.stage_at(tensor.data_ptr())

    def stage_at(self, address: int) -> int | None:
        """The same for an address."""
        i = bisect_right(self._starts, address) - 1
        return self._ends[i][1] if i >= 0 and address < self._ends[i][0] else None


def _keeps_weights(name: str) -> UserError:
    return UserError(
        f"autograd function {name} keeps weights where recalled ones can't reach them; use ctx.save_for_backward, and "
        "no activation checkpointing"
    )


def _within_reentrant_checkpoint() -> bool:
    """Whether a function runs that will run again in the backward pass, if its input needs a gradient."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not CheckpointFunction.forward.__code__:
        frame = frame.f_back
    return frame is not None


def _hooks_of_this_thread() -> Any:
    """What autograd shows the tensors that it saves now."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def graph_of(outputs: Tensor) -> Iterator[Any]:
    """All nodes of the outputs' graph, each once."""
    seen: set[Any] = set()
    todo: list[Any] = [outputs.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += [following for following, _ in node.next_functions]
