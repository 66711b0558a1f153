"""The weights of one delayed stage over time, flat: the latest ones, those of earlier updates, the strategy's state.

Simulation and processes call the strategy here, so that it does the same in both.
"""

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.engine.layout import Layout
from layerpipe2.engine.optimizer_view import FlatOptimizer
from layerpipe2.errors import UserError
from layerpipe2.strategies import Strategy, begin
from layerpipe2.strategies.base import COUNTERS, Place

HOSTS = {"cpu"}
"""Types of devices whose number of updates the host knows without waiting."""


class DelayedWeights:
    """What stage ``index`` remembers of its weights; all of it is updated in place.

    Attributes:
        latest: ``W(t)``, shape (N,), in the parameters' own type.
        step: number of updates since the pipeline was last empty, int64 (1,); its owner counts it.
        rows: delay line, ``d`` rows (N,), of what the strategy let forward passes read, ``W`` itself by default.
            Row ``t mod d`` holds that of ``t - d`` until update ``t`` puts that of ``t`` there; all rows start as that
            of ``W(0)``, which forward passes read while the pipeline fills. A pipeline whose forward pass really
            ran earlier needs the line only if the strategy looks at it; without it there are no rows.
        table: the rows as one tensor (d, N), on devices that look them up by a counter of their own: a CUDA graph has
            fixed addresses. On the CPU ``None``: each row has memory of its own.
        state: the state of the strategy.
        chosen: what forward passes read until the next update, if the strategy acts on them.

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
        keeps_line: bool = True,
        unfreezes: bool = False,
    ) -> None:
        self.index, self.delay, self.strategy, self.step = index, delay, strategy, step
        self.layout = Layout.of(stage, index, unfreezes=unfreezes)
        self.latest = self.layout.parameters[0].new_zeros(self.layout.size).detach()
        count, size = delay if keeps_line else 0, self.layout.size
        self.table = None if self.latest.device.type in HOSTS else self.latest.new_zeros(count, size)
        self.rows: list[Tensor] = [self.latest.new_zeros(size) for _ in range(count if self.table is None else 0)]
        if self.table is not None:
            self.rows = list(self.table)
        self.state = begin(strategy, self.latest, delay, step) if delay else {}
        self.predicts, self.compensates, self.corrects = (
            delay > 0 and strategy.acts(place) for place in ("forward", "gradient", "update")
        )
        self.chosen: Tensor | None = None
        self._empty = True

    def used(self) -> Tensor:
        """What the forward pass of mini-batch ``t`` read, shape (N,), before update ``t``: of update ``max(0, t - d)``.

        On the CPU the row itself, to be read only; the latest weights where there is no line.
        """
        return self.row(self.step) if self.rows else self.latest

    def row(self, step: Tensor) -> Tensor:
        """The row of the delay line that has to do with update number ``step``, shape (N,)."""
        if self.table is None:
            return self.rows[int(step) % self.delay]
        return self.table.index_select(0, step.remainder(self.delay))[0]

    @torch.no_grad()
    def begin_step(self, optimizer: Any) -> None:
        """Before the passes of update ``t``: count, and let the strategy choose what forward passes read until then."""
        if not self.delay:
            return
        torch.clamp(self.step, max=self.delay, out=self.state["lag"])
        if self.predicts:
            view = FlatOptimizer(optimizer, self.layout, self.latest)
            chosen = self._ask("forward", self.latest, view)
            self.chosen = chosen if chosen is self.latest else chosen.clone()  # the state may change before it is used
            if self._empty:
                for row in self.rows:
                    row.copy_(self.chosen)
        self._empty = False

    @torch.no_grad()
    def recalled(self) -> Tensor:
        """What the backward pass of mini-batch ``t`` reads, shape (N,)."""
        return self._ask("backward", self.latest, self._seen())

    @torch.no_grad()
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

    @torch.no_grad()
    def take_update(self, before: Tensor, after: Tensor) -> bool:
        """Let the strategy take in update ``t``; whether it has changed ``after`` (N,), and with it parameters.

        Parameters that are frozen stay.
        """
        if not self.corrects:
            return False
        changed = self._ask("update", before, after)
        if changed is after:
            return False
        moving = [slot for slot in self.layout.slots if slot.parameter.requires_grad]
        torch._foreach_copy_([slot.parameter for slot in moving], [slot.view(changed) for slot in moving])
        self.layout.gather(self.layout.parameters, after)
        return True

    @property
    def line(self) -> Tensor:
        """A copy of the delay line, shape (d, N)."""
        line = self.latest.new_empty(len(self.rows), self.layout.size)
        for row, copied in zip(self.rows, line, strict=True):
            copied.copy_(row)
        return line

    def _seen(self) -> Tensor:
        """What the strategy sees of the weights that the forward pass read: NaN if it says that it doesn't look."""
        return self.used() if self.strategy.needs_used else self.latest.new_full((1,), torch.nan).expand_as(self.latest)

    def _ask(self, place: Place, *arguments: Any) -> Tensor:
        """What the strategy returns in one of its places, contiguous.

        Raises:
            UserError: if that is no vector like the weights, or it has changed an argument in place, or on the backward
                pass, which a first stage leaves out, its state.
        """
        given = [one for one in arguments if isinstance(one, Tensor)]
        fixed = [*given, *self.state.values()] if place == "backward" else given
        versions = [one._version for one in fixed]
        found: Any = getattr(self.strategy, place)(MappingProxyType(self.state), *arguments)
        who = f"strategy '{self.strategy.name or self.strategy.kind}' at stage {self.index}"
        if versions != [one._version for one in fixed]:
            what = "its state or an argument" if place == "backward" else "an argument"
            raise UserError(f"{who} changes {what} in {place}(); return a new tensor, and keep things in update()")
        like = self.latest
        if not isinstance(found, Tensor) or (found.shape, found.dtype, found.device) != (
            like.shape,
            like.dtype,
            like.device,
        ):
            raise UserError(
                f"{who} returns no tensor like the weights in {place}(): {_described(found)}; give {_described(like)}"
            )
        return found.contiguous()

    def keep(self) -> None:
        """Before update ``t``: put what forward passes read until then into the delay line."""
        if not self.rows:
            return
        if self.table is None:
            self.used().copy_(self.shown)
        else:
            self.table.index_copy_(0, self.step.remainder(self.delay), self.shown[None])

    @property
    def shown(self) -> Tensor:
        """What forward passes read until the next update, shape (N,)."""
        return self.latest if self.chosen is None else self.chosen

    def start(self) -> None:
        """An empty pipeline: the latest weights stand in the whole delay line, the strategy starts anew."""
        self._empty, self.chosen = True, None
        with torch.no_grad():
            for row in self.rows:
                row.copy_(self.latest)
            for name, value in (self.strategy.init(self.latest, self.delay) if self.delay else {}).items():
                self.state[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Delay line, latest weights and the strategy's state, copied."""
        own = {name: value.clone() for name, value in self.own_state().items()}
        return {"latest": self.latest.clone(), "line": self.line, "strategy": own}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UserError: if it was saved with another strategy, another network, or by version 0.1.
        """
        if "strategy" not in saved:
            raise UserError(
                "the checkpoint is one of version 0.1, which kept a pipeline's state otherwise; finish that training "
                "with 0.1, or start anew from its weights"
            )
        mine = {"latest": self.latest, "line": self.line, **self.own_state()}
        theirs = {"latest": saved["latest"], "line": saved["line"], **saved["strategy"]}
        fits = _shapes(mine) == _shapes(theirs) and all(
            torch.equal(mine[name], theirs[name].to(mine[name])) for name in self.strategy.constants if name in mine
        )
        if not fits:
            raise UserError(
                f"checkpoint does not fit stage {self.index} (it holds {_shapes(theirs)}; this pipeline needs "
                f"{_shapes(mine)}, or its decay is another); resume with the same network and strategy"
            )
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])
        for row, old in zip(self.rows, theirs["line"], strict=True):
            row.copy_(old)
        self._empty = not int(self.step)

    def own_state(self) -> dict[str, Tensor]:
        """What the strategy remembers, without the engine's counters."""
        return {name: value for name, value in self.state.items() if name not in COUNTERS}


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items()))
