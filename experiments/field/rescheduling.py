"""PipeMare's smaller steps, whatever the optimizer is."""

from dataclasses import dataclass

from torch import Tensor

from layerpipe2.errors import integer
from layerpipe2.strategies import State, Strategy


@dataclass(frozen=True)
class Rescheduled(Strategy):
    """PipeMare's T1 (arXiv 1910.05124): ``lr / d^(1 - min(t / T, 1))``, smaller steps where it is late and begins.

    Late gradients are stable with a rate of the order ``1 / d``; once the schedule has lowered the rate they need no
    more care. Every optimizer of the study has an update that is proportional to the rate, weight decay included, so
    that a share of ``u`` is taken. It touches the delay alone, and keeps nothing. AsyncPP's version of PipeMare has
    seven epochs for ``T``.

    Attributes:
        updates: ``T``, counted from the last fill of the pipeline.

    Raises:
        UserError: if that is no positive integer.
    """

    updates: int

    constants = ("delay", "until")

    def __post_init__(self) -> None:
        integer(self.updates, "updates", 1)

    def init(self, weights: Tensor, delay: int) -> State:
        """``delay`` and ``until`` T, both (1,)."""
        return {"delay": weights.new_full((1,), delay), "until": weights.new_full((1,), self.updates)}

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """``W - u / d^(1 - min(t / T, 1))``."""
        power = 1 - (state["step"] / state["until"]).clamp(max=1)
        return before - (before - after) / state["delay"] ** power
