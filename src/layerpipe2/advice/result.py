"""What the trainings side by side have shown, as plain values and in a few sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

NO_VERDICT = (
    "No verdict follows from the cosines: the rule of thumb of before, made of them, told which cells of the study "
    "need a history hardly better than the learning rate alone, and most divergences came before it began to measure."
)
"""Why nothing more is concluded."""


@dataclass(frozen=True)
class Losses:
    """How far the trainings have come.

    Attributes:
        updates: done by then.
        losses: strategy -> mean loss of its mini-batches since the row before; ``None`` once it has diverged.
    """

    updates: int
    losses: dict[str, float | None]


@dataclass(frozen=True)
class Quality:
    """How good a strategy's weights would be, along the training that stashes.

    Attributes:
        updates: done at the end of the time that this is the mean of.
        recall_error: ``|Ŵ - W(t - d)| / |W(t) - W(t - d)|``; 0 is exact, 1 no better than the latest weights; ``None``
            where none was finite.
        gradient_cosine: between the gradient with these weights and the exact one; ``None`` where one vanishes.
    """

    updates: int
    recall_error: float | None
    gradient_cosine: float | None


@dataclass(frozen=True)
class StageQuality:
    """A stage that has a delay: what each strategy keeps there, and how good its weights are.

    Attributes:
        stage: from 0, the input side; a rank of a pipeline of several processes.
        delay: in updates.
        parameters: that are trained.
        megabytes: strategy, ``stash`` among them -> what it keeps beside the latest weights, in 10^6 bytes.
        qualities: strategy -> over time; the first ``2 d`` updates, in which averages start, are left out.
    """

    stage: int
    delay: int
    parameters: int
    megabytes: dict[str, float]
    qualities: dict[str, tuple[Quality, ...]]

    def saved(self, strategy: str) -> float:
        """Return what the strategy saves of stashing's memory, in 10^6 bytes."""
        return self.megabytes["stash"] - self.megabytes[strategy]


@dataclass(frozen=True)
class Advice:
    """How a few trainings went that differ in nothing but the strategy.

    Attributes:
        updates: that were made.
        rows: losses over time.
        diverged: strategy -> the update, counted from 1, whose loss was the first that wasn't finite.
        stages: those that have a delay.
    """

    updates: int
    rows: tuple[Losses, ...]
    diverged: dict[str, int]
    stages: tuple[StageQuality, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What happened, what that doesn't tell, and why nothing more is concluded."""
        if "stash" in self.diverged:
            return (
                f"Training diverges with exact weights too, in update {self.diverged['stash']}, which no weight "
                "history can mend: lower the learning rate.",
            )
        lost = [f"{name} diverged in update {update}" for name, update in self.diverged.items()]
        came = [f"{name} {loss:.4g}" for name, loss in self.rows[-1].losses.items() if loss is not None]
        return (
            f"After {self.updates} updates at these settings: {'; '.join([*lost, 'last losses ' + ', '.join(came)])}.",
            "That is a short training with one seed: it says nothing about the accuracy at the end, and a strategy may "
            "still diverge later, or do well with a smaller learning rate.",
            NO_VERDICT,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all that as plain values, with ``sentences``."""
        return {**asdict(self), "sentences": list(self.sentences)}
