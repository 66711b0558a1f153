"""The asynchronous pipeline of ``layerpipe2.distributed`` in the benchmark, without Lightning: a stage per process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from experiments.pipelines.peers import Batch, Loss, MakeOptimizer
from layerpipe2.delays import Delays
from layerpipe2.distributed.endpoint import Endpoint
from layerpipe2.distributed.health.watch import Watch
from layerpipe2.distributed.neighbours import Neighbours
from layerpipe2.distributed.process_stage import ProcessStage
from layerpipe2.distributed.timeline import Timeline
from layerpipe2.distributed.worker_loop import WorkerLoop
from layerpipe2.engine.metrics import Totals
from layerpipe2.history import make_history

_TIMEOUT = timedelta(seconds=60)


class AsynchronousTrainer:
    """This process' stage under given delays; needs an initialised process group.

    Args:
        stages: the whole network, one stage per process, the same weights on every rank; the stages of other ranks
            are not kept.
        delays: theirs.
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
        delays: Delays,
        strategy: str,
        make_optimizer: MakeOptimizer,
        loss: Loss,
        seed: int,
        *,
        split_backward: bool = False,
        timeline: Timeline | None = None,
    ) -> None:
        rank, per_stage = dist.get_rank(), delays.per_stage
        module, history = stages[rank], make_history(strategy)
        self.stages, optimizer = {rank: module}, make_optimizer(module.parameters())
        form: dict[str, Any] = {"seed": seed, "split_backward": split_backward}
        self.local = ProcessStage(module, rank, per_stage[rank], history, optimizer, **form)
        endpoint = Endpoint(rank, len(stages), torch.device("cpu"), _TIMEOUT, Watch())
        self._neighbours, self._totals = Neighbours.of(endpoint, per_stage, rank, rank), Totals()
        self._loop = WorkerLoop(
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
        self._loop.start(len(found), epoch=len(found))
        for _ in found:
            self._loop.step()
        self._loop.stop()
        return [float(mean) for name, mean in self._totals.take_means().items() if name == "loss"]
