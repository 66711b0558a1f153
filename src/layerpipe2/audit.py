"""Refuse what would let a backward pass escape the recalled weights, while one forward pass runs.

The exchange of saved tensors (:mod:`layerpipe2.recall`) reaches every view of the compute weights that autograd saves.
What it can't reach is a *copy* of them, a tensor saved by somebody else's hooks, and what an autograd function keeps by
itself. None of it would fail: the strategy would silently train like exact stashing, in part.

Known limit: a weight that is made by a matrix product of a weight with a constant (a hyper-network fed with a buffer)
looks like an activation and is not refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerpipe2.errors import UserError
from layerpipe2.recall import Region, storage_of

# A weight times a constant is a weight, unless the operation multiplies matrices: then the constant is an activation
# that doesn't depend on the batch, as the zero state that a recurrent layer starts from.
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution", "_trilinear"}


class Audit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows which tensors depend on the batch, and which are *weight-made*: from weights but not from the batch.

    Costs a dispatch per operation: one step per epoch.
    """

    def __init__(self, regions: list[Region], batch: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.regions = regions
        self._versions = [region.compute._version for region in regions]
        self._made = {storage_of(region.compute): region.stage for region in regions}
        self._data = {storage_of(batch)}
        self._alive: list[Tensor] = [batch]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [storage_of(t) for t in _tensors((args, kwargs))]
        outputs = _tensors(result)
        stages = [self._made[s] for s in inputs if s in self._made]
        if any(s in self._data for s in inputs):
            self._data.update(storage_of(t) for t in outputs)
        elif stages and not (len(stages) < len(inputs) and func.overloadpacket.__name__ in _PRODUCTS):
            for made in outputs:
                self._made.setdefault(storage_of(made), stages[0])
        self._alive += outputs  # a freed address would be given to the next tensor
        return result

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

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within: nobody else may hook saved tensors (activation checkpointing, offloading)."""

        def refuse(hooks: saved_tensors_hooks) -> NoReturn:
            raise UserError(
                f"a stage hooks the tensors that autograd saves ({type(hooks).__name__}: activation checkpointing or "
                "offloading), so recalled weights can't reach its backward pass; train without it"
            )

        entered = saved_tensors_hooks.__enter__
        saved_tensors_hooks.__enter__ = refuse  # type: ignore[method-assign]
        try:
            yield
        finally:
            saved_tensors_hooks.__enter__ = entered  # type: ignore[method-assign]

    def finish(self, outputs: Tensor) -> None:
        """Refuse autograd functions that keep weights by themselves, and layers that change weights in their forward.

        Raises:
            UserError: naming the function or the stage.
        """
        weights = {storage_of(region.compute) for region in self.regions}
        for node in _graph(outputs):
            kept = [t for t in _tensors(list(getattr(node, "__dict__", {}).values())) if storage_of(t) in weights]
            if kept or "CheckpointFunction" in node.name():
                raise UserError(
                    f"autograd function {node.name()} keeps weights where recalled ones can't reach them; use "
                    "ctx.save_for_backward, and no activation checkpointing"
                )
        for region, version in zip(self.regions, self._versions, strict=True):
            if region.compute._version != version:
                raise UserError(f"stage {region.stage} changes its weights in its forward pass (an Embedding's "
                                "max_norm?); a delayed stage can't")  # fmt: skip


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.layout is torch.strided and t.numel()]


def _graph(outputs: Tensor) -> Iterator[Any]:
    seen: set[Any] = set()
    todo: list[Any] = [outputs.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += [following for following, _ in node.next_functions]
