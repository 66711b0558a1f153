"""The weights of one delayed stage over time, flat: the latest ones, those of earlier updates, the history's state."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.engine.layout import Layout
from layerpipe2.errors import UserError
from layerpipe2.strategies import WeightHistory

HOSTS = {"cpu"}
"""Types of devices whose number of updates the host knows without waiting."""


def update_rates(optimizer: Optimizer | Any) -> dict[nn.Parameter, float | Tensor]:
    """Parameter -> learning rate of its group, negative where the optimizer maximizes: ``u = rate * gradient``."""
    signs = [(group, -1 if group.get("maximize") else 1) for group in optimizer.param_groups]
    return {p: sign * group["lr"] for group, sign in signs for p in group["params"]}


class DelayedWeights:
    """What stage ``index`` remembers of its weights; all of it is updated in place.

    Attributes:
        latest: ``W(t)``, shape (N,), in the parameters' own type.
        rows: delay line, ``d`` rows of shape (N,). Row ``t mod d`` holds ``W(t - d)`` until update ``t`` puts ``W(t)``
            there; all rows start as ``W(0)``, which is what the forward pass reads while the pipeline fills. A pipeline
            whose forward pass really ran earlier needs it for exact stashing only; without it there are no rows.
        table: the rows as one tensor (d, N), on devices that look them up by a counter of their own: a CUDA graph has
            fixed addresses. On the CPU ``None``: each row has memory of its own.
        state: the state of the weight history.

    Raises:
        UserError: if the stage's parameters can't be laid out as one vector.
    """

    def __init__(
        self,
        stage: nn.Module,
        index: int,
        delay: int,
        history: WeightHistory,
        *,
        keeps_line: bool = True,
        unfreezes: bool = False,
    ) -> None:
        self.index, self.delay, self.history = index, delay, history
        self.layout = Layout.of(stage, index, unfreezes=unfreezes)
        self.latest = self.layout.parameters[0].new_zeros(self.layout.size).detach()
        count, size = delay if keeps_line else 0, self.layout.size
        self.table = None if self.latest.device.type in HOSTS else self.latest.new_zeros(count, size)
        self.rows: list[Tensor] = [self.latest.new_zeros(size) for _ in range(count if self.table is None else 0)]
        if self.table is not None:
            self.rows = list(self.table)
        self.state = history.init(self.latest, delay) if delay else {}

    def delayed(self, step: Tensor) -> Tensor:
        """``W(max(0, t - d))``, shape (N,), before update ``t``; on the CPU the row itself, to be read only."""
        if not self.delay:
            return self.latest
        if self.table is None:
            return self.rows[int(step) % self.delay]
        return self.table.index_select(0, step.remainder(self.delay))[0]

    @property
    def line(self) -> Tensor:
        """A copy of the delay line, shape (d, N)."""
        line = self.latest.new_empty(len(self.rows), self.layout.size)
        for row, copied in zip(self.rows, line, strict=True):
            copied.copy_(row)
        return line

    def scaled_gradients(self, rates: dict[nn.Parameter, float | Tensor]) -> Tensor:
        """``lr * gradient`` of the stage, flat (N,): what the raw form of the averages takes for the update."""
        flat = torch.zeros_like(self.latest)
        for slot in self.layout.slots:
            gradient = slot.parameter.grad
            if gradient is not None and slot.parameter in rates:
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                torch.mul(dense, rates[slot.parameter], out=slot.view(flat))
        return flat

    def keep(self, step: Tensor) -> None:
        """Put ``W(t)`` into the delay line, while ``latest`` holds it."""
        if not self.rows:
            return
        if self.table is None:
            self.delayed(step).copy_(self.latest)
        else:
            self.table.index_copy_(0, step.remainder(self.delay), self.latest[None])

    def start(self) -> None:
        """An empty pipeline: the latest weights stand in the whole delay line, the history starts anew."""
        with torch.no_grad():
            for row in self.rows:
                row.copy_(self.latest)
            for name, value in (self.history.init(self.latest, self.delay) if self.delay else {}).items():
                self.state[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Delay line, latest weights and history state, copied."""
        history = {name: value.clone() for name, value in self.state.items()}
        return {"latest": self.latest.clone(), "line": self.line, "history": history}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UserError: if it was saved with another weight history or another network.
        """
        mine = {"latest": self.latest, "line": self.line, **self.state}
        theirs = {"latest": saved["latest"], "line": saved["line"], **saved["history"]}
        fits = _shapes(mine) == _shapes(theirs) and all(
            torch.equal(mine[name], theirs[name].to(mine[name])) for name in self.history.constants if name in mine
        )
        if not fits:
            raise UserError(
                f"checkpoint does not fit stage {self.index} (it holds {_shapes(theirs)}; this pipeline needs "
                f"{_shapes(mine)}, or its decay is another); resume with the same network and weight history"
            )
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])
        for row, old in zip(self.rows, theirs["line"], strict=True):
            row.copy_(old)


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items()))
