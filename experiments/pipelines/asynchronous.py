"""The asynchronous pipeline of ``layerpipe2.runtime`` in the benchmark, without Lightning: one stage per process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from experiments.pipelines.peers import Batch, Loss, MakeOptimizer
from layerpipe2.delays import DelaySchedule
from layerpipe2.history import make_history
from layerpipe2.metrics import Totals
from layerpipe2.runtime.endpoint import Endpoint
from layerpipe2.runtime.local_stage import LocalStage
from layerpipe2.runtime.program import Neighbours, Program
from layerpipe2.runtime.timeline import Timeline
from layerpipe2.runtime.watch import Unwatched

_TIMEOUT = timedelta(seconds=60)


class AsynchronousTrainer:
    """This process' stage under given delays; needs an initialised process group.

    Args:
        stages: the whole network, one stage per process, the same weights on every rank; the stages of other ranks
            are not kept.
        schedule: their delays.
        strategy: weight history.
        make_optimizer: parameters of this rank -> optimizer.
        loss: mean loss of a mini-batch.
        seed: of the stages' random numbers.
        split_backward: compute gradients of weights after that of the input has been sent.
        timeline: takes time stamps, if wanted.

    Attributes:
        local: the stage of this process.

    Raises:
        UserError: on an unknown strategy, or a stage whose backward pass cannot be given other weights.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        schedule: DelaySchedule,
        strategy: str,
        make_optimizer: MakeOptimizer,
        loss: Loss,
        seed: int,
        *,
        split_backward: bool = False,
        timeline: Timeline | None = None,
    ) -> None:
        rank, delays = dist.get_rank(), schedule.delays
        module = stages[rank]
        self.stages = {rank: module}
        self.local = LocalStage(
            module, rank, delays[rank], make_history(strategy), make_optimizer(module.parameters()), seed=seed,
            split_backward=split_backward,
        )  # fmt: skip
        endpoint = Endpoint(rank, len(stages), torch.device("cpu"), _TIMEOUT, Unwatched())
        self._neighbours, self._totals = Neighbours.of(endpoint, delays, rank, rank), Totals()
        self._program = Program(
            [self.local], self._neighbours, lambda: next(self._batches), loss, self._totals, timeline
        )

    @property
    def sent_bytes(self) -> int:
        """What this process sends per mini-batch: activation and targets forward, a gradient back."""
        boxes = (self._neighbours.activations_out, self._neighbours.gradients_out)
        return sum(box.capacity for box in boxes if box is not None)

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """Fill the pipeline, one update per mini-batch, drain it; the mean loss on the last rank, elsewhere nothing."""
        found = list(batches)
        self._batches = iter(found)
        self.local.refill()
        self._program.start(len(found), epoch=len(found))
        for _ in found:
            self._program.step()
        self._program.stop()
        return [float(mean) for name, mean in self._totals.drain().items() if name == "loss"]
