"""Synchronous pipelines as torch ships them (``torch.distributed.pipelining``), to compare the asynchronous one with.

Nothing of a schedule is written here: torch's classes run, on the same stages, batches and processes. They update once
per mini-batch, after all its micro-batches, hence train exactly like one process does (networks with batch
normalisation excepted: its statistics are those of a micro-batch).

Time stamps have the words of ``layerpipe2.pipeline.worker_loop``: ``forward`` and ``backward`` of a micro-batch, and
``weights`` for gradients of weights computed apart and for the update. What lies between them is waiting, messages and
torch's own administration. The number of an event is that of the mini-batch.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise, product
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import pipelining
from torch.optim import Optimizer

from layerpipe2.errors import UserError
from layerpipe2.pipeline.timeline import SpanRecorder
from layerpipe2.planning.variants import TORCH_PIPELINES

Batch = tuple[Tensor, Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

PEERS: dict[str, Any] = {
    "gpipe": pipelining.ScheduleGPipe,
    "1f1b": pipelining.Schedule1F1B,
    "interleaved": pipelining.ScheduleInterleaved1F1B,
    "zero-bubble": pipelining.ScheduleInterleavedZeroBubble,
    "zero-bubble-v": pipelining.ScheduleZBVZeroBubble,
}
"""A key of ``TORCH_PIPELINES`` -> torch's schedule."""
_PASSES = {
    "forward_one_chunk": "forward",
    "backward_one_chunk": "backward",
    "backward_weight_one_chunk": "weights",
}


class SynchronousTrainer:
    """This process' part of a synchronous pipeline, with the cross entropy; needs an initialised process group.

    Args:
        name: a key of :data:`PEERS`.
        stages: the whole network, as many per process as the schedule wants, the same weights on every rank; the stages
            of other ranks are not kept.
        x: a mini-batch (B, ...) for its shape and type.
        micro_batches: parts of a mini-batch; B must be a multiple.
        make_optimizer: parameters of this rank -> optimizer.
        timeline: takes time stamps, if wanted; else torch's passes are left as they are.

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
        timeline: SpanRecorder | None = None,
    ) -> None:
        schedule, processes = _checked(name, stages, x, micro_batches), list(range(dist.get_world_size()))
        back = processes[::-1] if schedule is pipelining.ScheduleZBVZeroBubble else processes
        ranks = (processes + back)[: len(stages)]  # of the stages
        shapes = _shapes(stages, x[: len(x) // micro_batches])
        self.stages = {k: stage for k, stage in enumerate(stages) if ranks[k] == dist.get_rank()}
        parts = [
            # Without its shapes torch would run a batch to find them, which changes batch normalisation's statistics.
            pipelining.PipelineStage(
                _Sends(stage), k, len(stages), x.device, input_args=shapes[k], output_args=shapes[k + 1]
            )
            for k, stage in self.stages.items()
        ]
        self._timeline, self._batch = timeline, 0
        for part, (method, what) in product(parts if timeline else (), _PASSES.items()):
            setattr(part, method, self._timed(getattr(part, method), what, part.stage_index))
        single = schedule in (pipelining.ScheduleGPipe, pipelining.Schedule1F1B)
        self._schedule = schedule(parts[0] if single else parts, micro_batches, loss_fn=F.cross_entropy)
        self.optimizer = make_optimizer(p for stage in self.stages.values() for p in stage.parameters())
        self._first, self._last = 0 in self.stages, len(stages) - 1 in self.stages
        self.sent_bytes = micro_batches * _sent(ranks, shapes)

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """One update per mini-batch; mean losses on the rank that holds the last stage, elsewhere nothing."""
        losses = []
        for x, y in batches:
            parts = list[Tensor]()
            target = y if self._last else None
            self._schedule.step(*((x,) if self._first else ()), target=target, losses=parts, return_outputs=False)
            with self._span("weights", next(iter(self.stages))):
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            self._batch += 1
            if parts:
                losses.append(torch.stack(parts).detach().mean().item())
        return losses

    def _timed(self, work: Callable[..., Any], what: str, stage: int) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self._span(what, stage):
                return work(*arguments, **keywords)

        return timed

    def _span(self, what: str, stage: int) -> AbstractContextManager[None]:
        return self._timeline.span(what, stage, self._batch) if self._timeline else nullcontext()


class _Sends(nn.Module):
    """A stage whose outputs are contiguous, as torch wants its messages."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stage(x)
        return out.contiguous()


def _checked(name: str, stages: Sequence[nn.Module], x: Tensor, micro_batches: int) -> Any:
    """The schedule, if all fits."""
    if name not in PEERS:
        raise UserError(f"unknown synchronous pipeline {name!r}; choose one of {', '.join(PEERS)}")
    processes = dist.get_world_size()
    needed, least = TORCH_PIPELINES[name] * processes, processes if name == "1f1b" else 1
    if len(stages) != needed:
        raise UserError(f"{name} on {processes} processes needs {needed} stages, not {len(stages)}")
    if micro_batches < least or len(x) % micro_batches:
        raise UserError(
            f"{name} on {processes} processes cannot make {micro_batches} micro-batches of {len(x)} "
            f"samples; give at least {least}, and a batch size that is a multiple"
        )
    return PEERS[name]


def _shapes(stages: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """The input of every stage and the output of the last, without values."""
    shapes = [x.detach().to("meta")]
    for stage in stages:
        shapes.append(copy.deepcopy(_Sends(stage)).to("meta")(shapes[-1]).detach().requires_grad_())
    return shapes


def _sent(ranks: Sequence[int], shapes: Sequence[Tensor]) -> int:
    """Bytes that this rank sends per micro-batch: activations forward and, as large, gradients back."""
    edges = [(edge, y.nbytes) for edge, y in zip(pairwise(ranks), shapes[1:-1], strict=True) if edge[0] != edge[1]]
    return sum(size * edge.count(dist.get_rank()) for edge, size in edges)
