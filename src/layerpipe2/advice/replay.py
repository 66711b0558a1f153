"""One mini-batch through copies of the stages: what each strategy's gradient would be; training isn't touched."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layerpipe2.delays import Delays
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.stage import DelayedStage
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.engine.values import one_number
from layerpipe2.errors import UserError
from layerpipe2.strategies import State, Strategy


@dataclass(frozen=True)
class _Exchanged(Strategy):
    """Exact weights that pass through the exchange of saved tensors, so that others can take their place."""

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        return used


def copied(stages: Sequence[nn.Module]) -> list[nn.Module]:
    """Copies of the stages with weights, buffers and Python state of their own.

    Raises:
        UserError: if a stage can't be copied.
    """
    try:
        return copy.deepcopy(list(stages))
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the network can't be copied ({reason}); keep tensors with a graph out of its layers"
        ) from None


def delayed_of(engine: PipelineEngine) -> dict[int, DelayedStage]:
    """The stages that have a delay and weights."""
    return {k: stage for k, stage in engine.delayed.items() if stage.delay}


class Replay:
    """The forward pass that the engine is about to run, with ``W(t - d)``; to be run backward with any weights.

    Everything happens in copies. The copies' delay is 1, since one row of a delay line holds all that this step reads.
    Call it with torch's generators put aside (``isolate_rng``): dropout then draws what the training will draw.

    Args:
        module: in training, before mini-batch ``t``.
        x: inputs (B, ...); y: targets.

    Attributes:
        loss: of the mini-batch.

    Raises:
        UserError: if a stage can't be copied, or recalled weights can't reach its backward pass.
    """

    def __init__(self, module: PipelinedModule, x: Tensor, y: Tensor) -> None:
        engine = module.engine
        self._engine = PipelineEngine(
            copied(engine.stages),
            Delays.custom([min(delay, 1) for delay in engine.delays.per_stage]),
            _Exchanged(),
            compute_dtype=engine.compute_dtype,
            stage_seed=module.stage_seed,
            unfreezes=module.delays_frozen,
        )
        for k, stream in self._engine._streams.items():
            stream.load_state_dict(engine._streams[k].state_dict())
        for k, stage in self._engine.delayed.items():
            if stage.delay:
                stage.rows[0].copy_(engine.delayed[k].used())
            stage.load()
        self._value = one_number(copy.deepcopy(module.loss)(self._engine.forward(x.clone()), y.clone()))
        self.loss = float(self._value.detach())

    def gradients(self, weights: Mapping[int, Tensor] | None = None) -> dict[int, Tensor]:
        """Gradient of every delayed stage, flat (N,), in float64 where the device has it.

        Args:
            weights: stage -> flat weights (N,) of its backward pass; ``None``: those of the forward pass (stashing).
        """
        stages = delayed_of(self._engine)
        for k, stage in stages.items():
            start = 0
            for region in stage.regions:
                stop = start + region.compute.numel()
                region.recalled = region.compute if weights is None else weights[k][start:stop].to(region.compute.dtype)
                start = stop
        wanted = [(k, leaf) for k, stage in stages.items() for leaf in stage.leaves.values() if leaf.requires_grad]
        found = torch.autograd.grad(self._value, [leaf for _, leaf in wanted], retain_graph=True, allow_unused=True)
        parts: dict[int, list[Tensor]] = {k: [] for k in stages}
        for (k, leaf), gradient in zip(wanted, found, strict=True):
            parts[k].append((torch.zeros_like(leaf) if gradient is None else gradient.detach()).flatten().double())
        return {k: torch.cat(flat) if flat else torch.zeros(0) for k, flat in parts.items()}
