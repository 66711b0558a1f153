"""The one autograd trick: a backward pass that uses other weights than the forward pass did.

The stages of a pipeline run forward with *compute weights*, all views of a few flat buffers. While the forward pass
runs, :class:`SavedWeights` replaces each tensor that autograd saves for the backward pass and that is a view of such
a buffer by a description (which buffer, size, strides, offset); the backward pass gets the same view of the recalled
buffer instead. Activations are stored as they are: only weights are exchanged.

Setting ``parameter.data`` between forward and backward would not do it: ``Linear`` saves a transposed view, and under
autocast every layer saves a cast copy, so the swap would be ignored, and every strategy would silently train like
exact stashing. A layer that saves a *copy* of its weights escapes this module too: :mod:`layerpipe2.engine.audit`
refuses it.

An operation that is not linear in its weight (``x / w``, ``exp(w * x)``) saves results beside the weight; its backward
pass then mixes forward and recalled weights, as hardware that stores activations would.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from layerpipe2.errors import UserError


@dataclass(eq=False)
class Region:
    """A flat buffer of compute weights and what stands for it in the backward pass.

    Attributes:
        stage: index of the stage, for messages.
        compute: flat buffer (N,) that the forward pass reads, the first of its storage; may be another in each step.
        recalled: flat buffer (N,) for the backward pass, or what makes it when that pass first asks; set anew in each
            step.
        hits: how many saved tensors were views of ``compute`` in the last forward pass.
        other: what was ``compute`` in other steps, and now is another update's weights.
    """

    stage: int
    compute: Tensor
    recalled: Tensor | Callable[[], Tensor]
    hits: int = 0
    other: Sequence[Tensor] = ()


def storage_of(tensor: Tensor) -> int:
    """Address of the tensor's memory, the same for all its views."""
    return tensor.untyped_storage().data_ptr()


def as_bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor, so that NaN equals NaN."""
    return tensor.view(torch.uint8)


def changed_in_forward(stage: int) -> UserError:
    """The error of a layer that writes to its own weights."""
    return UserError(
        f"stage {stage} changes its weights in its forward pass (an Embedding's max_norm, a mask, a norm?); a delayed "
        "stage can't"
    )


def weights_changed(stage: int) -> UserError:
    """The error of weights that something else than the optimizer has changed."""
    return UserError(
        f"stage {stage}: weights were changed between two updates (a callback that clamps or loads them?); do it in "
        "the optimizer's step"
    )


def foreign_weights(stage: int) -> UserError:
    """The error of a checkpoint whose weights are others than those of its pipeline."""
    return UserError(
        f"stage {stage}: the checkpoint's weights are not those that its pipeline was at (something changed them "
        "before it was saved, or one of its parts is another run's); resume from an earlier one"
    )


def network_changed(where: str) -> UserError:
    """The error of a network that has other parameters than when training began."""
    return UserError(
        f"{where}: a parameter or layer was added, replaced or removed while training (pruning, a new layer?); change "
        "the network before fit() starts"
    )


class SavedWeights:
    """Hooks for a forward pass: saved views of ``region.compute`` come back as views of ``region.recalled``.

    What a region only makes when asked is kept until another one is asked: a backward pass leaves one stage before it
    enters the next, so that they all use one memory, which stays in the processor's cache.

    ``moving`` names memory (:func:`storage_of`) that may change before the backward pass, because that doesn't read it.
    """

    def __init__(self, regions: list[Region], moving: Iterable[int] = ()) -> None:
        self.regions = regions
        self._moving = frozenset(moving)
        self._index: dict[int, Region] = {}
        self._made: tuple[Region, Tensor] | None = None
        self._observers: Sequence[Callable[[Tensor], None]] = ()

    def hooks(self, observers: Sequence[Callable[[Tensor], None]] = ()) -> saved_tensors_hooks:
        """The context manager to run the forward pass in; the backward pass may run outside of it.

        The ``observers`` are shown every other tensor that is saved; an audit raises if it should have been exchanged.
        """
        self._observers = observers
        self._index = {storage_of(region.compute): region for region in self.regions}
        self._made = None
        for region in self.regions:
            region.hits = 0
        return saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> tuple[Tensor, int] | tuple[Region, torch.Size, tuple[int, ...], int]:
        dense = tensor.layout is torch.strided
        region = self._index.get(tensor.untyped_storage().data_ptr()) if dense else None
        if region is None:
            for observe in self._observers if dense else ():
                observe(tensor)
            # A node that kept its own output would keep itself alive: memory of every graph that is not run back.
            return tensor.detach() if tensor.grad_fn is not None else tensor, tensor._version
        if tensor.dtype is not region.compute.dtype or tensor.is_neg():
            raise UserError(
                f"stage {region.stage} views its weights as {tensor.dtype} (torch.view_as_complex?), where recalled "
                "weights can't follow; compute with real and imaginary parts"
            )
        region.hits += 1
        # Compute weights begin their storage.
        return region, tensor.size(), tensor.stride(), tensor.storage_offset()  # type: ignore[return-value]

    def _unpack(self, packed: tuple[Any, ...]) -> Tensor:
        if len(packed) > 2:
            region, size, stride, offset = packed
            recalled = self._recalled(region)
            return recalled.as_strided(size, stride, recalled.storage_offset() + offset)
        # autograd leaves this check out for tensors that a hook has packed.
        tensor: Tensor = packed[0]
        version: int = packed[1]
        if tensor._version != version and storage_of(tensor) not in self._moving:
            raise UserError(
                f"a tensor of shape {list(tensor.shape)} that is needed for the backward pass was modified by an "
                "inplace operation (a ReLU(inplace=True) at the beginning of a stage?); use the out-of-place form"
            )
        return tensor

    def _recalled(self, region: Region) -> Tensor:
        made = self._made
        if made is not None and made[0] is region:
            return made[1]
        if isinstance(region.recalled, Tensor):
            return region.recalled
        self._made = made = None  # frees the memory that is then taken again
        recalled = region.recalled()
        self._made = region, recalled
        return recalled


def check_intercepted(regions: list[Region], input_needs_gradient: bool, has_matrices: bool) -> None:
    """Raise if a stage that must have had weights exchanged had none (a custom operator may hide them).

    The first stage legitimately saves no weights when its input needs no gradient.

    Raises:
        UserError: naming the stage.
    """
    if input_needs_gradient and has_matrices and not any(region.hits for region in regions):
        raise UserError(
            f"stage {regions[0].stage} saved none of its weights for the backward pass, so no recalled weights can be "
            "used there; avoid autograd functions that keep weights outside save_for_backward, or put this layer into "
            "its neighbour's stage"
        )
