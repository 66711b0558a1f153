"""Where each parameter of a stage stands in the stage's flat weight vectors, and which stages can be laid out so."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.stages import check_stages

# Elements; a multiple of 64 bytes in every floating type. torch's own allocations are aligned so, and some matrix
# kernels round differently on addresses that are not.
_ALIGN = 64


@dataclass(frozen=True)
class Slot:
    """One parameter: its tensor and its place ``[offset, offset + numel)`` in the flat vector."""

    parameter: nn.Parameter
    offset: int

    def view(self, flat: Tensor, base: int = 0) -> Tensor:
        """The slot's part of ``flat``, with the shape and memory format of the parameter.

        ``flat`` holds the elements of the flat vector from ``base`` on.
        """
        p = self.parameter
        return flat.as_strided(p.size(), p.stride(), flat.storage_offset() + self.offset - base)


@dataclass(frozen=True)
class Layout:
    """The parameters of a stage that may move in one flat vector of ``size`` elements, padding included.

    Attributes:
        slots: parameters in order; the first ``kept`` elements hold those that are computed with in their own type.
        kept: where the parameters that low precision would cast begin.
        size: length N of the flat vector.
    """

    slots: tuple[Slot, ...]
    kept: int
    size: int

    @classmethod
    def of(cls, stage: nn.Module, stage_index: int, *, unfreezes: bool = False) -> Layout:
        """Lay out a stage; with ``unfreezes`` the parameters that are frozen now as well.

        Raises:
            UserError: if its parameters differ in type or device, or one is complex or not dense in memory.
        """
        norms = batchnorm_parameters(stage)  # their kernels want float32 beside bf16 activations
        kept = [p for p in norms if movable(p, unfreezes)]
        parameters = kept + [p for p in stage.parameters() if movable(p, unfreezes) and p not in norms]
        _check_alike(parameters, stage_index)
        offsets = [0, *itertools.accumulate(-(-p.numel() // _ALIGN) * _ALIGN for p in parameters)]
        return cls(tuple(map(Slot, parameters, offsets)), offsets[len(kept)], offsets[-1])

    def views(self, flat: Tensor) -> list[Tensor]:
        """The slots' parts of ``flat`` (N,), shaped as the parameters."""
        return [slot.view(flat) for slot in self.slots]

    def gather(self, tensors: Sequence[Tensor], flat: Tensor) -> None:
        """Copy one tensor per slot (parameters, gradients) into their places in ``flat`` (N,)."""
        torch._foreach_copy_(self.views(flat), list(tensors))

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters in the order of the slots."""
        return [slot.parameter for slot in self.slots]


def trainable(parameter: nn.Parameter) -> bool:
    """Whether the parameter has elements that an optimizer may move."""
    return parameter.requires_grad and parameter.numel() > 0


def movable(parameter: nn.Parameter, unfreezes: bool) -> bool:
    """Whether the parameter may move while training: it is trainable, or frozen parameters may be unfrozen."""
    return trainable(parameter) or (unfreezes and parameter.numel() > 0 and parameter.is_floating_point())


def check_frozen(fixed: Sequence[nn.Parameter], stage_index: int) -> None:
    """Refuse to train parameters whose earlier values are not known, because they were frozen at the start.

    Raises:
        UserError: naming the stage.
    """
    if any(trainable(p) for p in fixed):
        raise UserError(
            f"stage {stage_index}: a parameter that was frozen when training began was unfrozen; give "
            "PipelinedModule(unfreezes=True), so that it is delayed as well, or unfreeze it before fit() starts"
        )


def frozen_names(stage: nn.Module) -> list[str]:
    """Names of the parameters that are frozen now."""
    return [name for name, parameter in stage.named_parameters() if not parameter.requires_grad]


def freeze_only(stage: nn.Module, names: Sequence[str]) -> None:
    """Freeze the parameters called ``names``, unfreeze all others."""
    for name, parameter in stage.named_parameters():
        if parameter.requires_grad != (name not in names):
            parameter.requires_grad_(name not in names)


def batchnorm_parameters(stage: nn.Module) -> dict[nn.Parameter, None]:
    """Parameters of the stage's BatchNorm layers, in order (a dict serves as an ordered set)."""
    return dict.fromkeys(p for norm in _batchnorms(stage) for p in norm.parameters(recurse=False))


def batchnorm_buffers(stage: nn.Module) -> list[Tensor]:
    """Running statistics, which BatchNorm saves for a backward pass that, in training, reads the batch's own."""
    return [buffer for norm in _batchnorms(stage) for buffer in norm.buffers(recurse=False)]


def _batchnorms(stage: nn.Module) -> list[nn.Module]:
    return [m for m in stage.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _check_alike(parameters: list[nn.Parameter], stage_index: int) -> None:
    kinds = {(p.dtype, p.device) for p in parameters}
    if len(kinds) > 1:
        listed = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise UserError(
            f"stage {stage_index} mixes parameters of {listed}; give all of a stage one type and device, "
            "or move the odd layer into a stage of its own"
        )
    for p in parameters:
        if not p.is_floating_point():
            raise UserError(
                f"stage {stage_index} has a parameter of type {p.dtype}; only real floating types can be delayed: make "
                "real and imaginary part two parameters"
            )
        if not is_dense(p):
            raise UserError(
                f"stage {stage_index} has a parameter of shape {list(p.shape)} with strides {list(p.stride())} that is "
                "not dense in memory; make it contiguous before building the pipeline"
            )


def is_dense(tensor: Tensor) -> bool:
    """Whether the tensor fills its span of memory without gaps or overlaps, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def check_pipeline(
    stages: Sequence[nn.Module], delays: Delays, compute_dtype: torch.dtype | None, *, unfreezes: bool = False
) -> None:
    """Refuse what no :class:`layerpipe2.engine.step.PipelineEngine` can train, before any memory is taken for it.

    Raises:
        UserError: if the delays do not fit the stages, or a stage cannot be laid out or holds a TorchScript module.
    """
    check_stages(stages)
    if len(stages) != delays.num_stages:
        raise UserError(
            f"there are {delays.num_stages} delays but the network has {len(stages)} stages; give one delay per stage"
        )
    for k in delayed_stages(stages, delays, compute_dtype, unfreezes=unfreezes):
        Layout.of(stages[k], k, unfreezes=unfreezes)
        if any(isinstance(module, torch.jit.ScriptModule) for module in stages[k].modules()):
            raise UserError(
                f"stage {k} holds a TorchScript module, whose weights can't be delayed; give the original nn.Module"
            )


def delayed_stages(
    stages: Sequence[nn.Module], delays: Delays, compute_dtype: torch.dtype | None, *, unfreezes: bool = False
) -> list[int]:
    """Numbers of the stages whose parameters are laid out in one vector: those with a delay, in low precision all."""
    return [
        k
        for k, (stage, delay) in enumerate(zip(stages, delays.per_stage, strict=True))
        if (delay or compute_dtype) and any(movable(p, unfreezes) for p in stage.parameters())
    ]
