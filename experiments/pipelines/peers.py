"""Synchronous pipelines as torch ships them (``torch.distributed.pipelining``), to compare the asynchronous one with.

Nothing of a schedule is written here: torch's classes run, on the same stages, batches and processes. They update once
per mini-batch, after all its micro-batches, hence train exactly like one process does (networks with batch
normalisation excepted: its statistics are those of a micro-batch).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.optim import Optimizer

from experiments.pipelines.pass_times import PassTimes
from layerpipe2.distributed.timeline import Timeline
from layerpipe2.errors import UserError
from layerpipe2.planning.variants import TORCH_PIPELINES

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Peer:
    """One of torch's schedules: its class, stages per process, and whether they are laid out like a V."""

    schedule: Any
    per_rank: int
    v: bool = False

    def ranks(self, processes: int) -> list[int]:
        """Stage -> rank: round robin, or there and back (V)."""
        forth = list(range(processes))
        return forth + forth[::-1] if self.v else forth * self.per_rank


PEERS: dict[str, Peer] = {
    "gpipe": Peer(ScheduleGPipe, TORCH_PIPELINES["gpipe"]),
    "1f1b": Peer(Schedule1F1B, TORCH_PIPELINES["1f1b"]),
    "interleaved": Peer(ScheduleInterleaved1F1B, TORCH_PIPELINES["interleaved"]),
    "zero-bubble": Peer(ScheduleInterleavedZeroBubble, TORCH_PIPELINES["zero-bubble"]),
    "zero-bubble-v": Peer(ScheduleZBVZeroBubble, TORCH_PIPELINES["zero-bubble-v"], v=True),
}


class SynchronousTrainer:
    """This process' part of a synchronous pipeline; needs an initialised process group.

    Args:
        name: a key of :data:`PEERS`.
        stages: the whole network, ``per_rank`` stages per process, the same weights on every rank; the stages of
            other ranks are not kept.
        x: a mini-batch (B, ...) for its shape and type.
        micro_batches: parts of a mini-batch; B must be a multiple.
        make_optimizer: parameters of this rank -> optimizer.
        loss: mean loss of a micro-batch.
        timeline: takes time stamps, if wanted.

    Raises:
        UserError: on an unknown name, or numbers that do not fit each other.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[nn.Module],
        x: Tensor,
        micro_batches: int,
        make_optimizer: MakeOptimizer,
        loss: Loss,
        *,
        timeline: Timeline | None = None,
    ) -> None:
        peer = _checked(name, stages, x, micro_batches)
        ranks = peer.ranks(dist.get_world_size())
        shapes = _shapes(stages, x[: len(x) // micro_batches])
        self.stages = {k: stage for k, stage in enumerate(stages) if ranks[k] == dist.get_rank()}
        parts = [
            # Without its shapes torch would run a batch to find them, which changes batch normalisation's statistics.
            PipelineStage(stage, k, len(stages), x.device, input_args=shapes[k], output_args=shapes[k + 1])
            for k, stage in self.stages.items()
        ]
        self._times = PassTimes(timeline)
        for part in parts:
            self._times.watch(part)
        single = peer.schedule in (ScheduleGPipe, Schedule1F1B)
        self._schedule = peer.schedule(parts[0] if single else parts, micro_batches, loss_fn=loss)
        self._optimizer = make_optimizer(p for stage in self.stages.values() for p in stage.parameters())
        self._first, self._last = 0 in self.stages, len(stages) - 1 in self.stages
        self.sent_bytes = micro_batches * _sent(ranks, shapes)

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """One update per mini-batch; mean losses on the rank that holds the last stage, elsewhere nothing."""
        losses = []
        for x, y in batches:
            parts = list[Tensor]()
            target = y if self._last else None
            self._schedule.step(*((x,) if self._first else ()), target=target, losses=parts, return_outputs=False)
            with self._times.update(next(iter(self.stages))):
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
            if parts:
                losses.append(torch.stack(parts).detach().mean().item())
        return losses


def _checked(name: str, stages: Sequence[nn.Module], x: Tensor, micro_batches: int) -> Peer:
    if name not in PEERS:
        raise UserError(f"unknown synchronous pipeline {name!r}; choose one of {', '.join(PEERS)}")
    needed = PEERS[name].per_rank * dist.get_world_size()
    if len(stages) != needed:
        raise UserError(f"{name} on {dist.get_world_size()} processes needs {needed} stages, not {len(stages)}")
    least = dist.get_world_size() if name == "1f1b" else 1
    if micro_batches < least or len(x) % micro_batches:
        raise UserError(
            f"{name} on {dist.get_world_size()} processes cannot make {micro_batches} micro-batches of {len(x)} "
            f"samples; give at least {least}, and a batch size that is a multiple"
        )
    return PEERS[name]


def _shapes(stages: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """The input of every stage and the output of the last, without values."""
    shapes = [x.detach().to("meta")]
    for stage in stages:
        y = copy.deepcopy(stage).to("meta")(shapes[-1])
        shapes.append(y.detach().requires_grad_())
    return shapes


def _sent(ranks: Sequence[int], shapes: Sequence[Tensor]) -> int:
    """Bytes that this rank sends per micro-batch: activations forward and, as large, gradients back."""
    me, total = dist.get_rank(), 0
    for k in range(1, len(ranks)):
        if ranks[k - 1] != ranks[k]:
            total += shapes[k].numel() * shapes[k].element_size() * ((ranks[k - 1] == me) + (ranks[k] == me))
    return total
