"""What one process does, in which order: the pipeline without a clock.

A stage with delay ``d`` runs ``F(0) ... F(d) B(0) F(d+1) B(1) ...``: the forward pass of batch ``t`` follows ``t - d``
updates, and that is all that the delay law says. The order of everything else comes from the data: a process that has
nothing to compute with waits. With LayerPipe2's delays each boundary between stages then holds one activation and one
gradient, sent in one tick and used in the next, so that sending takes place beside computing; with PipeDream's it is
1F1B. *Step* ``t`` of a process is everything up to ``B(t)``: ``F(t + d)`` and ``B(t)`` of each of its stages, and the
update, where that was the last mini-batch of one.
"""

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from layerpipe2.engine.epoch import Totals
from layerpipe2.engine.stage import Stage
from layerpipe2.engine.step import Loss
from layerpipe2.errors import UserError
from layerpipe2.pipeline.health.finite import FiniteCheck
from layerpipe2.pipeline.in_flight import InFlight
from layerpipe2.pipeline.neighbours import Neighbours
from layerpipe2.pipeline.snapshots import StageSnapshots
from layerpipe2.pipeline.timeline import SpanRecorder

Batch = tuple[Tensor, Tensor]


class WorkerLoop:
    """The steps of one process.

    Args:
        passes: of its stages, input side first; consecutive ones of the pipeline.
        neighbours: where messages come from and go to.
        source: gives the next mini-batch; used by the process with the first stage.
        loss: ``loss(outputs, targets)`` -> scalar, used by the process with the last stage.
        totals: where the last process adds up losses.
        timeline: takes time stamps, if wanted.
        check_finite: stop at the first activation, loss or gradient that is not finite.
        resumable: keep what a checkpoint of a full pipeline needs; see :class:`StageSnapshots`.
    """

    def __init__(
        self,
        passes: list[InFlight],
        neighbours: Neighbours,
        source: Callable[[], Batch],
        loss: Loss,
        totals: Totals,
        timeline: SpanRecorder | None = None,
        *,
        check_finite: bool = False,
        resumable: bool = False,
    ) -> None:
        self.finite = FiniteCheck() if check_finite else None
        self.passes, self.stages = passes, [one.stage for one in passes]
        self.neighbours, self.source, self.loss, self.totals = neighbours, source, loss, totals
        self.timeline = timeline
        self.snapshots = [StageSnapshots(one, resumable=resumable) for one in passes]
        self.done = self.started = 0
        self.epoch = 1
        self.limit: float = 0
        self._forwarded = [0] * len(passes)
        self._arrived: list[deque[list[Tensor]]] = [deque() for _ in passes]
        self._losses: deque[tuple[Tensor, Tensor, Tensor]] = deque()
        self._gradient: Tensor | None = None

    def start(self, batches: float, *, epoch: int, done: int = 0) -> None:
        """Begin with an empty pipeline: ``batches`` mini-batches will follow on ``done``, ``epoch`` in each."""
        self.done, self.started, self.limit, self.epoch = done, done, done + batches, epoch
        self._forwarded = [done] * len(self.stages)
        self.neighbours.expect(batches)

    def step(self) -> None:
        """Everything up to the return of the next mini-batch at every stage, and the update that follows.

        Raises:
            UserError: if none is to return any more.
        """
        if self.done >= self.limit:
            raise UserError(
                f"training goes on behind mini-batch {self.done}, which was to be the last one when it began, so that "
                "the pipeline is empty (a callback that raises max_epochs or max_steps?); set them before fit(), or "
                "resume from the checkpoint of this epoch's end"
            )
        epoch_end = (self.done // self.epoch + 1) * self.epoch
        for one in self.passes:
            one.begin_step()
        for i, stage in enumerate(self.stages):
            while self._forwarded[i] < min(self.limit, self.done + stage.delay + 1):
                self.snapshots[i].take(self._forwarded[i])
                self._forward(i)
        for i in reversed(range(len(self.stages))):
            self._backward(i, self.passes[i])
        for i in reversed(range(len(self.stages))):
            self.snapshots[i].keep_version(self.done, epoch_end)
            with self._span("weights", self.stages[i], self.done):
                self.passes[i].finish_backward()
                self.passes[i].update()
        if self._losses:  # counted in the epoch of the update, as the simulator does
            self.totals.add(*self._losses.popleft())
        if self.finite is not None:
            self.finite.end_step()
        self.done += 1
        if self.done in (epoch_end, self.limit):
            self.pause()

    def pause(self) -> None:
        """No step will follow soon: leave no neighbour with a transfer that waits for this process.

        Raises:
            UserError: on a GPU, if something of the last step is not finite.
        """
        inbox = self.neighbours.activations_in
        if inbox is not None and self.done > self.started:
            ahead = min(self.limit, self.done + self.stages[0].delay + self.neighbours.between)
            inbox.take_in(int(ahead) - self._forwarded[0])
        if self.finite is not None:
            self.finite.finish()

    def stop(self) -> None:
        """Stop after the last step: nothing is under way any more, and the stages are as of the last update."""
        self.pause()
        self.neighbours.flush()
        for snapshots in self.snapshots:
            snapshots.restore(self.done)

    def oldest_targets(self) -> Tensor:
        """Return those of the mini-batch that comes back next, in the process with the loss."""
        return self._losses[0][2]

    def _forward(self, i: int) -> None:
        stage, batch = self.stages[i], self._forwarded[i]
        inbox = self.neighbours.activations_in
        with self._span("wait", stage, batch):
            x, *targets = self._arrived[i].popleft() if i else self.source() if inbox is None else inbox.receive()
        last = i == len(self.stages) - 1 and self.neighbours.activations_out is None
        loss_of = (lambda y: self.loss(y, targets[0])) if last else None
        with self._span("forward", stage, batch), self.snapshots[i].as_of(batch):
            outputs, loss = self.passes[i].forward(x, loss_of, *targets)
        self._check(loss if loss is not None else outputs, "output", stage, batch)
        if loss is not None:
            self._losses.append((loss, outputs, targets[0]))
        elif i + 1 < len(self.stages):
            self._arrived[i + 1].append([outputs, *targets])
        elif self.neighbours.activations_out is not None:
            self.neighbours.activations_out.send(outputs, *targets)
        self._forwarded[i] += 1

    def _backward(self, i: int, passes: InFlight) -> None:
        stage = passes.stage
        if passes.must_recompute:  # while the gradient is on its way
            with self._span("recompute", stage, self.done), self.snapshots[i].before(self.done):
                passes.recompute()
        gradient = self._gradient if i + 1 < len(self.stages) else None
        inbox = self.neighbours.gradients_in if i + 1 == len(self.stages) else None
        if inbox is not None:
            with self._span("wait", stage, self.done):
                gradient = next(iter(inbox.receive()), None)
        with self._span("backward", stage, self.done):
            self._gradient = passes.backward(gradient)
        self._check(self._gradient, "gradient of the input", stage, self.done)
        outbox = self.neighbours.gradients_out if i == 0 else None
        if outbox is not None:  # also if there is none, as for integers: the neighbour waits for a message
            outbox.send(*([] if self._gradient is None else [self._gradient]))

    def _check(self, value: Tensor | None, what: str, stage: Stage, batch: int) -> None:
        if self.finite is not None and value is not None:
            where = f"mini-batch {batch} (epoch {batch // self.epoch})"
            self.finite.note(value, f"stage {stage.index} diverged at {where}: its {what}")

    def _span(self, what: str, stage: Stage, batch: int) -> Any:
        timeline = self.timeline
        return nullcontext() if timeline is None else timeline.span(what, stage.index, batch, stage.step.device)
