"""The state of a stage after an update, while later mini-batches are already on their way through it.

A stage with delay ``d`` has then also run forward the next ``d`` mini-batches. Validation, checkpoints and the module
after training must not see what those left behind: moved BatchNorm statistics, random numbers drawn. And a run that is
resumed at an epoch's end has to run them forward again, with the weights of then.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layerpipe2.engine.layout import freeze_only, frozen_names
from layerpipe2.engine.saved_weights import as_bytes
from layerpipe2.engine.weights import HOSTS
from layerpipe2.errors import UserError
from layerpipe2.pipeline.in_flight import InFlight

LOSS = "loss: "
"""Begins the names of the loss's buffers among those of the last stage."""


class _Snapshot(NamedTuple):
    buffers: dict[str, Tensor]
    stream: list[Tensor]


class StageSnapshots:
    """One stage's buffers and random stream as of any update, its last weight versions as of an epoch's end.

    The last stage's buffers include those of the loss.

    Args:
        passes: of the stage.
        resumable: keep the versions, which a bit-exact checkpoint of a full pipeline needs. For methods without a stash
            this costs up to ``d`` copies of the weights during the last ``d`` updates of an epoch.

    Attributes:
        peak_bytes: most bytes of versions that were kept.
    """

    def __init__(self, passes: InFlight, *, resumable: bool) -> None:
        self.passes, self.stage, self.resumable, self.peak_bytes = passes, passes.stage, resumable, 0
        assert self.stage.stream is not None, "every stage of a process has random numbers of its own"
        self._stream = self.stage.stream
        self._taken: dict[int, _Snapshot] = {}  # mini-batch in flight -> before its forward pass
        self._versions: dict[int, Tensor] = {}
        self._replayed: dict[int, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}  # of the newest snapshot
        self._shown: dict[str, Tensor] | None = None  # to the evaluation that runs
        self._evaluated: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None  # before and after the last one
        self._loss: nn.Module | None = None
        self._targets: Callable[[], Tensor]

    def include(self, loss: nn.Module, targets: Callable[[], Tensor]) -> None:
        """``loss`` follows the stage, and its buffers are kept as well; ``targets`` gives those that come back next."""
        self._loss, self._targets = loss, targets

    def take(self, batch: int) -> None:
        """Right before the forward pass of every mini-batch."""
        self._taken[batch] = self._current()

    @contextmanager
    def before(self, batch: int) -> Iterator[None]:
        """Within: buffers and random numbers are as before the forward pass of ``batch``, which is in flight."""
        now = self._current()
        self._put_all(self._taken[batch])
        try:
            yield
        finally:
            self._put_all(now)

    def keep_version(self, batch: int, epoch_end: int) -> None:
        """Keep what forward passes read before ``batch`` makes an update, for a checkpoint at ``epoch_end``."""
        self._taken = {count: snapshot for count, snapshot in self._taken.items() if count > batch}
        weights, each = self.stage.weights, self.stage.accumulate
        if weights is None or weights.rows or (batch + 1) % each:
            return
        made, at_end = batch // each, epoch_end // each
        if self.resumable and at_end - made <= weights.span:
            self._versions[made] = weights.shown.clone()
        first = max(made + 1, at_end) - weights.span
        self._versions = {version: kept for version, kept in self._versions.items() if version >= first}
        self.peak_bytes = max(self.peak_bytes, len(self._versions) * weights.latest.nbytes)
        self._replayed = {}

    @contextmanager
    def as_of(self, batch: int) -> Iterator[None]:
        """Within: the weights that the forward pass of ``batch`` must use, if it was already run before a resume."""
        weights, old = self.stage.weights, self._replayed.pop(batch, None)
        if weights is None or old is None:
            yield
            return
        chosen, weights.chosen = weights.chosen, old
        try:
            yield
        finally:
            weights.chosen = chosen

    def swap_buffers(self, done: int) -> None:
        """Swap the buffers with those as after ``done`` mini-batches; a second call swaps them back."""
        snapshot = self._taken.get(done)
        if snapshot is None:
            return
        found = self._current().buffers
        self._taken[done] = _Snapshot(found, snapshot.stream)
        self._put(snapshot.buffers)
        if self._shown is None:
            self._shown = snapshot.buffers
        else:
            self._evaluated, self._shown = (self._shown, found), None

    def take_over(self, done: int) -> None:
        """Let what an evaluation has left in the buffers hold for the mini-batches in flight, before training goes on.

        These went ahead without it. So it must not have made a difference to them: a buffer that training doesn't
        touch gets its new value now, one that every pass writes anew has none of its old one.

        Raises:
            UserError: naming stage and buffer, if it would have.
        """
        if self._evaluated is None:
            return
        (before, after), self._evaluated = self._evaluated, None
        changed = [name for name in after if not _same(before[name], after[name])]
        if not changed:
            return
        loss = self._loss if any(n.startswith(LOSS) for n in changed) else None
        (was, left), (would_be, would_leave) = self._tried(before, done, loss), self._tried(after, done, loss)
        untouched = [n for n in changed if _same(left[n], before[n]) and _same(would_leave[n], after[n])]
        differing = [n for n in changed if n not in untouched and not _same(left[n], would_leave[n])]
        if differing or not all(map(_same, was, would_be)):
            raise UserError(
                f"stage {self.stage.index}: an evaluation has changed buffer '{(differing or changed)[0]}', and the "
                "mini-batches already under way went without that; change it only while training, give drain=True, or "
                "train in one process"
            )
        new = {name: after[name] for name in untouched}
        self._put({**dict(self._named_buffers()), **new})
        self._taken = {batch: one._replace(buffers=one.buffers | new) for batch, one in self._taken.items()}

    def _tried(
        self, buffers: dict[str, Tensor], done: int, loss: nn.Module | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Outputs (B, ...), and ``loss``, of the oldest mini-batch in flight, ``done``; what becomes of ``buffers``."""
        given, copies = self.passes.oldest_input(), {name: value.clone() for name, value in buffers.items()}
        own = {name: value for name, value in copies.items() if not name.startswith(LOSS)}
        of_loss = {name.removeprefix(LOSS): value for name, value in copies.items() if name.startswith(LOSS)}
        now = self._stream.state_dict()
        self._stream.load_state_dict(self._taken[done].stream)
        try:
            with self.stage.context():
                x = given.detach().requires_grad_(given.requires_grad).clone()
                found = [functional_call(self.stage.module, own, (x,))]
                if loss is not None:
                    found.append(functional_call(loss, of_loss, (found[0], self._targets())))
        finally:
            self._stream.load_state_dict(now)
        return [one.detach() for one in found], own | {LOSS + name: value for name, value in of_loss.items()}

    def restore(self, done: int) -> None:
        """Leave the module without traces of mini-batches in flight, after the last one, ``done`` in all."""
        snapshot = self._taken.pop(done, None)
        if snapshot is not None:
            self._put_all(snapshot)

    def state_dict(self, done: int) -> dict[str, Any]:
        """What a bit-exact continuation after ``done`` mini-batches needs beside parameters and optimizer.

        Raises:
            UserError: if mini-batches are in flight whose weights were not kept.
        """
        weights = self.stage.weights
        if weights is not None and self.passes.in_flight and not (self.resumable or weights.rows):
            raise UserError(
                "the weights that a checkpoint of a full pipeline needs were not kept; give the Trainer a checkpoint "
                "callback, or PipelineStrategy(resumable=True)"
            )
        snapshot = self._taken.get(done) or self._current()
        self.passes.watch.check()
        frozen = frozen_names(self.stage.module)
        state: dict[str, Any] = {"step": self.stage.step.clone(), "frozen": frozen, **snapshot._asdict()}
        if weights is not None:
            state["weights"] = weights.state_dict() | {"line": self._line(done)}
        return state

    def load_state_dict(self, saved: dict[str, Any], done: int, *, in_flight: bool) -> None:
        """Continue from :meth:`state_dict`; mini-batches ``in_flight`` run forward again, with the weights of then.

        Raises:
            UserError: if it was saved with another strategy or another network, or other weights were loaded.
        """
        weights, delay, each = self.stage.weights, self.stage.delay, self.stage.accumulate
        self.stage.step.copy_(saved["step"])
        self._stream.load_state_dict(saved["stream"])
        freeze_only(self.stage.module, saved["frozen"])
        if weights is None:
            return
        line = saved["weights"]["line"]
        weights.load_state_dict(
            saved["weights"] | ({} if weights.rows else {"line": weights.latest.new_empty(0, weights.layout.size)})
        )
        self.passes.watch.restart()
        read = {batch: (batch - delay) // each for batch in range(done, done + delay if in_flight else 0)}
        old = {version: line[version % weights.span].to(weights.latest).clone() for version in read.values()}
        self._replayed = {batch: old[version] for batch, version in read.items()}
        if not weights.rows:
            self._versions = old

    def _put_all(self, snapshot: _Snapshot) -> None:
        self._put(snapshot.buffers)
        self._stream.load_state_dict(snapshot.stream)

    def _put(self, buffers: dict[str, Tensor]) -> None:
        for name, buffer in self._named_buffers():
            if not torch.equal(buffer, buffers[name]):  # mini-batches in flight may need a constant for their gradients
                buffer.copy_(buffers[name])

    def _current(self) -> _Snapshot:
        self._buffers = {name: self._copied(name, buffer) for name, buffer in self._named_buffers()}
        return _Snapshot(self._buffers, self._stream.state_dict())

    def _named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.stage.module.named_buffers()
        if self._loss is not None:
            yield from ((LOSS + name, buffer) for name, buffer in self._loss.named_buffers())

    def _copied(self, name: str, buffer: Tensor) -> Tensor:
        """A copy of the buffer; on the CPU the last one if it is as it was then: a constant one is copied once.

        A GPU would have to be waited for.
        """
        last = self._buffers.get(name)
        if last is None or buffer.device.type not in HOSTS:
            return buffer.clone()
        return last if _same(last, buffer) else buffer.clone()

    def _line(self, done: int) -> Tensor:
        """The delay line as the simulator holds it: a row, see ``DelayedWeights``, per version."""
        weights, made = self.stage.weights, done // self.stage.accumulate
        assert weights is not None
        if weights.rows:
            return weights.line
        line = weights.latest.expand(weights.span, -1).clone()
        first = self._versions.get(0)
        for version in range(made - weights.span, made):
            kept = self._versions.get(version, first if version < 0 else None)
            if kept is not None:
                line[version % weights.span] = kept
        return line


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit."""
    alike = (one.shape, one.dtype) == (other.shape, other.dtype)
    return alike and torch.equal(as_bytes(one.reshape(-1)), as_bytes(other.reshape(-1)))
