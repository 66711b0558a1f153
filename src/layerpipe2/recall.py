"""The one autograd trick: a backward pass that uses other weights than the forward pass did.

The stages of a pipeline run forward with *compute weights*, all views of a few flat buffers. While the forward pass
runs, :class:`SavedWeights` replaces each tensor that autograd saves for the backward pass and that is a view of such
a buffer by a note (which buffer, size, strides, offset); in the backward pass the note is answered by the same view of
the recalled buffer. Activations are stored as they are: only weights are exchanged.

Setting ``parameter.data`` between forward and backward would not do it: ``Linear`` saves a transposed view, and under
autocast every layer saves a cast copy, so the swap would be ignored, and every strategy would silently train like
exact stashing. A layer that saves a *copy* of its weights escapes this module too, so :class:`Audit` follows, for one
forward pass, every tensor computed from weights alone, and refuses to train when one of them is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerpipe2.errors import UserError


class _Note(NamedTuple):
    buffer: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


@dataclass
class Region:
    """A flat buffer of compute weights and what stands for it in the backward pass.

    Attributes:
        stage: index of the stage, for messages.
        compute: flat buffer (N,) that the forward pass reads.
        recalled: flat buffer (N,) for the backward pass; set anew in each step.
        hits: how many saved tensors were views of ``compute`` in the last forward pass.
    """

    stage: int
    compute: Tensor
    recalled: Tensor
    hits: int = 0


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class SavedWeights:
    """Hooks for a forward pass: saved views of ``region.compute`` come back as views of ``region.recalled``."""

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions
        self._index = {_storage(region.compute): i for i, region in enumerate(regions)}
        self._audit: Audit | None = None

    def hooks(self, audit: Audit | None = None) -> torch.autograd.graph.saved_tensors_hooks:
        """The context manager to run the forward pass in; the backward pass may run outside of it."""
        self._audit = audit
        for region in self.regions:
            region.hits = 0
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> Tensor | _Note:
        if tensor.layout is not torch.strided:
            return tensor
        found = self._index.get(_storage(tensor))
        if found is None:
            if self._audit is not None:
                self._audit.check_saved(tensor)
            return tensor
        region = self.regions[found]
        region.hits += 1
        offset = int(tensor.storage_offset()) - int(region.compute.storage_offset())
        return _Note(found, tensor.size(), tensor.stride(), offset)

    def _unpack(self, packed: Tensor | _Note) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        recalled = self.regions[packed.buffer].recalled
        return recalled.as_strided(packed.size, packed.stride, recalled.storage_offset() + packed.offset)


class Audit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is computed from compute weights alone, and refuses to let autograd save a copy of it.

    A tensor is *weight-made* if some operation made it from at least one weight or weight-made tensor and no other
    tensor: views, casts, concatenations, normalised weights. Costs a dispatch per operation: one step in a run.
    """

    def __init__(self, regions: list[Region]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made = {_storage(region.compute): region.stage for region in regions}
        self._alive: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        stages = [self._stage_of(t) for t in inputs]
        if stages and all(stage is not None for stage in stages):
            for made in tree_leaves(result):
                if isinstance(made, Tensor) and made.layout is torch.strided:
                    self._made.setdefault(_storage(made), stages[0] or 0)
                    self._alive.append(made)  # a freed address would be given to the next activation
        return result

    def _stage_of(self, tensor: Tensor) -> int | None:
        return self._made.get(_storage(tensor)) if tensor.layout is torch.strided else None

    def check_saved(self, tensor: Tensor) -> None:
        """Raise if ``tensor``, about to be saved and not a view of compute weights, was made from them.

        Raises:
            UserError: naming the stage.
        """
        stage = self._stage_of(tensor)
        if stage is not None:
            raise UserError(
                f"stage {stage} saves a copy of its weights for the backward pass (shape {list(tensor.shape)}, "
                f"{tensor.dtype}), where the recalled weights could not reach it; do not train under autocast "
                "(precision='bf16' of the pipeline replaces it), and compute no weight from another one in a forward"
            )


def check_intercepted(regions: list[Region], input_needs_gradient: bool, has_matrices: bool) -> None:
    """Raise if a stage that must have had weights exchanged had none (a custom autograd function may hide them).

    The first stage legitimately saves no weights when its input needs no gradient.

    Raises:
        UserError: naming the stage.
    """
    if input_needs_gradient and has_matrices and not any(region.hits for region in regions):
        raise UserError(
            f"stage {regions[0].stage} saved none of its weights for the backward pass, so no recalled weights can be "
            "used there; avoid activation checkpointing and autograd functions that keep weights outside "
            "save_for_backward"
        )
