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
from layerpipe2.runtime.links import Inbox, Outbox, Watch
from layerpipe2.runtime.local_stage import LocalStage
from layerpipe2.runtime.program import Neighbours, Program

_ACTIVATIONS, _GRADIENTS = 0, 1
_TIMEOUT = timedelta(seconds=60)


class AsynchronousTrainer:
    """This process' stage under LayerPipe2's delays; needs an initialised process group.

    Args:
        stages: the whole network, one stage per process, the same weights on every rank; the stages of other ranks
            are not kept.
        strategy: weight history.
        make_optimizer: parameters of this rank -> optimizer.
        loss: mean loss of a mini-batch.

    Raises:
        UserError: on an unknown strategy, or a stage whose backward pass cannot be given other weights.
    """

    def __init__(
        self, stages: Sequence[nn.Module], strategy: str, make_optimizer: MakeOptimizer, loss: Loss, seed: int
    ) -> None:
        rank, delays = dist.get_rank(), DelaySchedule.layerpipe2(len(stages)).delays
        module = stages[rank]
        self.stages = {rank: module}
        self._stage = LocalStage(
            module, rank, delays[rank], make_history(strategy), make_optimizer(module.parameters()), seed=seed
        )
        self._neighbours, self._totals = _neighbours(delays, rank), Totals()
        self._program = Program([self._stage], self._neighbours, lambda: next(self._batches), loss, self._totals)

    @property
    def sent_bytes(self) -> int:
        """What this process sends per mini-batch: activation and targets forward, a gradient back."""
        boxes = (self._neighbours.activations_out, self._neighbours.gradients_out)
        return sum(box.capacity for box in boxes if box is not None)

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """Fill the pipeline, one update per mini-batch, drain it; the mean loss on the last rank, elsewhere nothing."""
        found = list(batches)
        self._batches = iter(found)
        self._stage.refill()
        self._program.start(len(found), epoch=len(found))
        for _ in found:
            self._program.step()
        self._neighbours.flush()
        return [float(mean) for name, mean in self._totals.drain().items() if name == "loss"]


def _neighbours(delays: Sequence[int], rank: int) -> Neighbours:
    """The links of a process: as many activations under way as the delays leave between two stages."""
    ahead = max(1, delays[rank - 1] - delays[rank]) if rank else 1
    first, last = rank == 0, rank == len(delays) - 1
    return Neighbours(
        None if first else _inbox(rank - 1, _ACTIVATIONS, slots=delays[rank] + ahead + 2, ahead=ahead),
        None if last else _outbox(rank + 1, _ACTIVATIONS, depth=delays[rank] + 2),
        None if last else _inbox(rank + 1, _GRADIENTS, slots=2, ahead=1),
        None if first else _outbox(rank - 1, _GRADIENTS, depth=2),
    )


def _inbox(peer: int, tag: int, *, slots: int, ahead: int) -> Inbox:
    return Inbox(peer, tag, torch.device("cpu"), _TIMEOUT, Watch(), slots=slots, ahead=ahead)


def _outbox(peer: int, tag: int, *, depth: int) -> Outbox:
    return Outbox(peer, tag, torch.device("cpu"), _TIMEOUT, Watch(), depth=depth)
