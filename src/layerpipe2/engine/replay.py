"""One mini-batch through copies of the stages: what each strategy's gradient would be; training isn't touched."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layerpipe2.delays import Delays
from layerpipe2.engine.execution import StagedModule
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.engine.values import one_number
from layerpipe2.engine.weights import DelayedWeights
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


def delayed_of(engine: PipelineEngine) -> dict[int, DelayedWeights]:
    """The weights of the stages that have a delay."""
    return {k: weights for k, weights in engine.delayed.items() if weights.delay}


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

    def __init__(self, module: StagedModule, x: Tensor, y: Tensor) -> None:
        engine = module.engine
        self._engine = PipelineEngine(
            copied(engine.stages),
            Delays.custom([min(delay, 1) for delay in engine.delays.per_stage]),
            _Exchanged(),
            compute_dtype=engine.compute_dtype,
            stage_seed=module.stage_seed,
            unfreezes=module.delays_frozen,
        )
        for copy_of_it, stage in zip(self._engine.placed, engine.placed, strict=True):
            if copy_of_it.stream is not None and stage.stream is not None:
                copy_of_it.stream.load_state_dict(stage.stream.state_dict())
        for k, weights in delayed_of(self._engine).items():
            weights.rows[0].copy_(engine.delayed[k].used())
        self._engine.step_count.fill_(1)  # an update that the forward pass misses
        self._engine.begin()
        self._value = one_number(copy.deepcopy(module.training_loss)(self._engine.forward(x.clone()), y.clone()))
        self.loss = float(self._value.detach())

    def gradients(self, weights: Mapping[int, Tensor] | None = None) -> dict[int, Tensor]:
        """Gradient of every delayed stage, flat (N,), in float64 where the device has it.

        Args:
            weights: stage -> flat weights (N,) of its backward pass; ``None``: those of the forward pass (stashing).
        """
        stages = [stage for stage in self._engine.placed if stage.delay and stage.weights is not None]
        for stage in stages:
            start = 0
            for region in stage.regions:
                stop, own = start + region.compute.numel(), region.compute
                region.recalled = own if weights is None else weights[stage.index][start:stop].to(own.dtype)
                start = stop
        delayed = delayed_of(self._engine).items()
        wanted = [(k, p) for k, one in delayed for p in one.layout.parameters if p.requires_grad]
        found = torch.autograd.grad(self._value, [p for _, p in wanted], retain_graph=True, allow_unused=True)
        parts: dict[int, list[Tensor]] = {stage.index: [] for stage in stages}
        for (k, p), gradient in zip(wanted, found, strict=True):
            parts[k].append((torch.zeros_like(p) if gradient is None else gradient.detach()).flatten().double())
        return {k: torch.cat(flat) if flat else torch.zeros(0) for k, flat in parts.items()}
