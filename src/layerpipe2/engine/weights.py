"""The weights of one delayed stage over time, flat: the latest ones, those of earlier updates, the strategy's state.

Simulation and processes call the strategy here, so that it does the same in both.
"""

from operator import attrgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.engine.layout import Layout
from layerpipe2.engine.optimizer_view import FlatOptimizer, rates_of
from layerpipe2.engine.saved_weights import as_bytes, foreign_weights, weights_changed
from layerpipe2.errors import UserError
from layerpipe2.optim import Part
from layerpipe2.strategies import Strategy, begin
from layerpipe2.strategies.base import COUNTERS, Place

_version = attrgetter("_version")

HOSTS = {"cpu"}
"""Types of devices whose number of updates the host knows without waiting."""


class DelayedWeights:
    """What stage ``index`` remembers of its weights; all of it is updated in place.

    The parameters are views of :attr:`latest`, but while passes run that compute with others (:meth:`show`).

    With ``a`` mini-batches per update the forward pass of mini-batch ``t`` reads the weights after
    ``max(0, t - d) // a`` updates, and its backward pass follows ``t // a`` updates: the difference is its *lag*.

    Attributes:
        latest: ``W(q)`` after ``q`` updates, shape (N,), in the parameters' own type.
        step: ``q``, the number of updates since the pipeline was last empty, int64 (1,); its owner counts it.
        waiting: mini-batches that came back since the last update.
        span: the largest lag, ``d / a`` rounded up: ``d`` where every mini-batch makes an update.
        rows: delay line, ``span`` rows (N,), of what the strategy let forward passes read, ``W`` itself by default.
            Row ``q mod span`` gets that of ``q`` right before update ``q``; at first all are ``W(0)``. A pipeline whose
            forward pass really ran earlier needs the line only if the strategy looks at it; without it there are no
            rows.
        table: the rows as one tensor (span, N), on devices that look them up by a counter of their own: a CUDA graph
            has fixed addresses. On the CPU ``None``: each row has memory of its own.
        state: the state of the strategy.
        chosen: what forward passes read until the next update, if the strategy acts on them.
        kept: a copy of the latest weights as the last update left them, between two mini-batches that are looked at.
        rates: those of the optimizer's groups, where the strategy has noted them for the gradient.

    Raises:
        UserError: if the stage's parameters can't be laid out as one vector.
    """

    def __init__(
        self,
        stage: nn.Module,
        index: int,
        delay: int,
        strategy: Strategy,
        step: Tensor,
        *,
        accumulate: int = 1,
        keeps_line: bool = True,
        unfreezes: bool = False,
    ) -> None:
        self.index, self.delay, self.strategy, self.step, self.accumulate = index, delay, strategy, step, accumulate
        self.span, self.waiting = -(-delay // accumulate), 0
        self.layout = Layout.of(stage, index, unfreezes=unfreezes)
        self.latest = self.layout.parameters[0].new_zeros(self.layout.size).detach()
        count, size = self.span if keeps_line else 0, self.layout.size
        self.table = None if self.latest.device.type in HOSTS else self.latest.new_zeros(count, size)
        self.rows: list[Tensor] = [self.latest.new_zeros(size) for _ in range(count if self.table is None else 0)]
        self._known = [*self.rows, self.latest]
        self._kinds = [_kind(p) for p in self.layout.parameters]
        if self.table is not None:
            self.rows = list(self.table)
        self.state = begin(strategy, self.latest, self.span, step) if delay else {}
        self._lent = MappingProxyType(self.state)
        predicts, recalls, compensates, corrects = (
            delay > 0 and strategy.acts(place) for place in ("forward", "backward", "gradient", "update")
        )
        self.predicts, self.compensates, self.corrects = predicts, compensates, corrects
        self.acts = predicts or recalls or compensates or corrects
        self._unseen = self.latest.new_full((1,), torch.nan).expand_as(self.latest)
        self.chosen: Tensor | None = None
        self.kept: Tensor | None = None
        self.rates: list[float] | None = None
        self.attach()
        self.start()

    @torch.no_grad()
    def attach(self) -> None:
        """Take the parameters' values as the latest weights, and make the parameters views of these.

        Raises:
            UserError: if they have got another shape, type or device.
        """
        if self._kinds != [_kind(p) for p in self.layout.parameters]:
            raise weights_changed(self.index)
        found = torch.zeros_like(self.latest)  # two parameters may have swapped their memory
        self.layout.gather(self.layout.parameters, found)
        self.latest.copy_(found)
        self._views = {flat.data_ptr(): self.layout.views(flat) for flat in self._known}  # as they are in memory now
        self.show(self.latest)
        self._places = list(map(Tensor.data_ptr, self.layout.parameters))

    def take_back(self) -> None:
        """Lay the parameters out again if the optimizer's step has given them other memory."""
        if self._places != list(map(Tensor.data_ptr, self.layout.parameters)):
            self.attach()

    def release(self) -> None:
        """Give each parameter memory of its own: nothing is trained any more."""
        for parameter in self.layout.parameters:
            parameter.data = parameter.data.clone()

    def show(self, flat: Tensor) -> None:
        """Make the parameters views of ``flat`` (N,); nothing is copied."""
        views = self._views.get(flat.data_ptr()) or self.layout.views(flat)
        for parameter, view in zip(self.layout.parameters, views, strict=True):
            parameter.data = view

    def used(self) -> Tensor:
        """What the forward pass of the mini-batch read that comes back next, shape (N,).

        On the CPU the row itself, to be read only; the latest weights where there is no line.
        """
        if not self.rows:
            return self.latest
        if self.table is None:
            done = int(self.step)
            read = self._read_at(done)
            return self.rows[read % self.span] if read < done else self.shown
        read = self._read()
        row = self.row(read)
        # Row 0 holds W(0) until the first update; what else is read without a lag is in no row yet.
        return torch.where(read < self.step, row, self.shown) if self.predicts or self.accumulate > 1 else row

    def _read(self) -> Any:
        """Return after how many updates that forward pass took place, int64 (1,)."""
        each, ahead = self.accumulate, self.waiting - self.delay
        return (self.step * each + ahead).clamp(min=0) // each

    def _read_at(self, done: int) -> int:
        """The same on the CPU, after ``done`` updates."""
        return max(0, done * self.accumulate + self.waiting - self.delay) // self.accumulate

    def row(self, step: Any) -> Tensor:
        """The row of the delay line with what forward passes read after ``step`` updates, shape (N,)."""
        if self.table is None:
            return self.rows[int(step) % self.span]
        return self.table.index_select(0, step.remainder(self.span))[0]

    def begin_step(self, optimizer: Any) -> None:
        """Note the lag of the next mini-batch before its passes, and let the strategy choose what forward passes read.

        It is asked once per update.
        """
        if not self.acts:
            return
        if self.table is not None:
            torch.sub(self.step, self._read(), out=self.state["lag"])
        else:
            done = int(self.step)
            self.state["lag"].fill_(done - self._read_at(done))
        if self.predicts and not self.waiting:
            view = FlatOptimizer(optimizer, self.layout, self.latest)
            with torch.no_grad():
                chosen = self._ask("forward", self.latest, view)
            self.chosen = chosen if chosen is self.latest else chosen.clone()  # the state may change before it is used
            notes = self.compensates and chosen is self.latest and self.table is None  # what else did it act for?
            self.rates = rates_of(optimizer) if notes else None

    def recalled(self) -> Tensor:
        """What the backward pass of the mini-batch reads that comes back next, shape (N,)."""
        return self._ask("backward", self.latest, self._seen())

    def change_gradients(self) -> None:
        """Give the optimizer what the strategy makes of the parameters' gradients."""
        if not self.compensates:
            return
        flat = self.gradients()
        changed = self._ask("gradient", flat, self.latest, self._seen())
        if changed is not flat:
            for slot in self.layout.slots:
                if slot.parameter.grad is not None:
                    slot.parameter.grad = slot.view(changed).clone()

    def gradients(self) -> Tensor:
        """The parameters' gradients, flat (N,); zero where there is none."""
        flat = torch.zeros_like(self.latest)
        for slot in self.layout.slots:
            gradient: Any = slot.parameter.grad
            if gradient is not None:
                slot.view(flat).copy_(gradient.to_dense() if gradient.is_sparse else gradient)
        return flat

    def take_update(self, before: Tensor) -> None:
        """Let the strategy take in the update that led from ``before`` (N,) to the latest weights, and change these.

        Parameters that are frozen stay.
        """
        if not self.corrects:
            return
        changed = self._ask("update", before, self.latest)
        moving = [slot for slot in self.layout.slots if slot.parameter.requires_grad]
        if moving and changed is not self.latest:
            torch._foreach_copy_([slot.view(self.latest) for slot in moving], [slot.view(changed) for slot in moving])

    @property
    def line(self) -> Tensor:
        """A copy of the delay line, shape (span, N); (0, N) where there is none."""
        line = self.latest.new_empty(len(self.rows), self.layout.size)
        for row, copied in zip(self.rows, line, strict=True):
            copied.copy_(row)
        return line

    def _seen(self) -> Tensor:
        """What the strategy sees of the weights that the forward pass read: NaN if it says that it doesn't look."""
        return self.used() if self.strategy.needs_used else self._unseen

    def _ask(self, place: Place, *arguments: Any) -> Tensor:
        """What the strategy returns in one of its places, contiguous. Gradients are disabled by the caller.

        Raises:
            UserError: if that is no vector like the weights, or it has changed an argument in place, or on the backward
                pass, which a first stage leaves out, its state.
        """
        given = [one for one in arguments if isinstance(one, Tensor)]
        fixed = [*given, *self.state.values()] if place == "backward" else given
        versions = list(map(_version, fixed))
        found: Any = getattr(self.strategy, place)(self._lent, *arguments)
        if versions != list(map(_version, fixed)):
            what = "its state or an argument" if place == "backward" else "an argument"
            raise self._refused(f"changes {what} in {place}(); return a new tensor, and keep things in update()")
        like = self.latest
        if found is not like and (not isinstance(found, Tensor) or _kind(found) != _kind(like)):
            raise self._refused(
                f"returns no tensor like the weights in {place}(): {_described(found)}; give {_described(like)}"
            )
        return found.contiguous()

    def _refused(self, what: str) -> UserError:
        return UserError(f"strategy '{self.strategy.name or self.strategy.kind}' at stage {self.index} {what}")

    def keep(self) -> Tensor:
        """Put what forward passes read until an update into the delay line; return the weights (N,) before it."""
        if self.table is not None and self.rows:
            self.table.index_copy_(0, self.step.remainder(self.span), self.shown[None])
        elif self.rows:
            row = self.row(self.step)
            row.copy_(self.shown)
            if self.shown is self.latest:
                return row
        return self.latest.clone() if self.corrects else self.latest

    def room(self, *, copied: bool) -> Tensor | None:
        """Where :meth:`keep` would put the weights (N,) on the CPU, for somebody who writes them there.

        Args:
            copied: whether there must be such a place where there is no delay line.
        """
        if self.rows:
            return self.row(self.step)
        return torch.zeros_like(self.latest) if copied else None

    def parts(self, room: Tensor | None, *, moved: bool) -> dict[Tensor, Part]:
        """Per parameter, its part of ``room`` (N,) and, if it is ``moved``, of the average."""
        size, row, average, rest = self.latest.element_size(), 0 if room is None else room.data_ptr(), 0, (0, 0, 0)
        if moved and self.corrects:
            gain, average = self.state["gain"], self.state["average"].data_ptr()
            rest = gain.data_ptr(), len(gain) - 1, self.step.data_ptr()
        found = dict[Tensor, Part]()
        for slot in self.layout.slots:
            at = size * slot.offset
            found[slot.parameter] = Part(row and row + at, average and average + at, *rest)
        return found

    @property
    def shown(self) -> Tensor:
        """What forward passes read until the next update, shape (N,)."""
        return self.latest if self.chosen is None else self.chosen

    def start(self) -> None:
        """An empty pipeline: the latest weights stand in the whole delay line, the strategy starts anew."""
        self.chosen = None
        with torch.no_grad():
            for row in self.rows:
                row.copy_(self.latest)
            for name, value in (self.strategy.init(self.latest, self.span) if self.delay else {}).items():
                self.state[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Delay line, latest weights and the strategy's state, copied."""
        own = {name: value.clone() for name, value in self.own_state().items()}
        chosen = {"chosen": self.chosen.clone()} if self.chosen is not None and self.waiting else {}
        latest = self.latest if self.kept is None else self.kept  # what others made of them isn't the pipeline's
        return {"latest": latest.clone(), "line": self.line, "strategy": own, **chosen}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UserError: if it was saved with another strategy, another network, or by version 0.1, or with other weights
                than the parameters now hold.
        """
        if "strategy" not in saved:
            raise UserError(
                "the checkpoint is one of version 0.1, which kept a pipeline's state otherwise; finish that training "
                "with 0.1, or start anew from its weights"
            )
        mine = {"latest": self.latest, **self.own_state()}
        theirs = {"latest": saved["latest"], **saved["strategy"]}
        line = torch.empty(len(self.rows), self.layout.size, device="meta")
        needed, found = _shapes({**mine, "line": line}), _shapes({**theirs, "line": saved["line"]})
        fits = needed == found and all(
            torch.equal(mine[name], theirs[name].to(mine[name])) for name in self.strategy.constants if name in mine
        )
        if not fits:
            raise UserError(
                f"checkpoint does not fit stage {self.index} (it holds {found}; this pipeline needs {needed}, or its "
                "decay is another); resume with the same network and strategy"
            )
        if not torch.equal(as_bytes(self.latest), as_bytes(theirs["latest"].to(self.latest))):
            raise foreign_weights(self.index)
        self.chosen = saved["chosen"].to(self.latest).clone() if "chosen" in saved else None
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])
        for row, old in zip(self.rows, saved["line"], strict=True):
            row.copy_(old)

    def own_state(self) -> dict[str, Tensor]:
        """What the strategy remembers, without the engine's counters."""
        return {name: value for name, value in self.state.items() if name not in COUNTERS}


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items()))
