"""What is measured before a training, as plain values, and what follows from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from layerpipe2.advice.curvature import Stability
from layerpipe2.advice.rule import RULE, Verdict


@dataclass(frozen=True)
class Quality:
    """How good one strategy's weights are; means over the measured steps, ``None`` where none was finite.

    Attributes:
        error: ``|Ŵ - W(t - d)| / |W(t) - W(t - d)|``; 0 is exact, 1 no better than the latest weights.
        alignment: cosine between the gradient that the strategy would give and the exact one, of the same mini-batch at
            the same moment; 0 where the strategy's gradient isn't finite.
        norm_ratio: norm of the former over that of the latter.
        gradient_error: norm of their difference over that of the exact one.
    """

    error: float | None
    alignment: float | None
    norm_ratio: float | None
    gradient_error: float | None


@dataclass(frozen=True)
class Measured:
    """One stage, or (``stage`` is ``None``) means over all delayed stages, weighted by their parameters.

    Attributes:
        delay: in updates; over all stages the largest.
        parameters: that are trained.
        drift: ``|W(t) - W(t - d)| / |W(t - d)|``: the error of the latest weights.
        update_correlation: cosine of successive applied updates; 0 for white ones.
        strategies: name -> quality.
    """

    stage: int | None
    delay: int
    parameters: int
    drift: float | None
    update_correlation: float | None
    strategies: dict[str, Quality]


@dataclass(frozen=True)
class Advice:
    """Whether a network, cut into these stages and trained with these settings, needs a weight history.

    Attributes:
        stages: the delayed ones.
        total: over all of them.
        stability: learning rate x curvature against theory; ``None`` if it was not measured.
        not_measured: why not.
        learning_rate: at the last measured step.
        updates: how many the measurement spans, behind fill and warm-up.
        loss_before, loss: of the first mini-batch, and the mean at the measured steps; ``None`` where not finite.
        diverged: what went wrong, in words, if training diverged though its weights were exact.
    """

    stages: tuple[Measured, ...]
    total: Measured
    stability: Stability | None
    not_measured: str | None
    learning_rate: float
    updates: int
    loss_before: float | None
    loss: float | None
    diverged: str | None

    @property
    def value(self) -> float | None:
        """The quantity that the rule of thumb looks at."""
        return predictors(self).get(RULE.quantity)

    @property
    def verdict(self) -> Verdict:
        """``drop`` the history, ``keep`` one, ``unknown``, or ``diverged``."""
        return "diverged" if self.diverged else RULE.decide(self.value)

    @property
    def sentence(self) -> str:
        """The advice."""
        if self.diverged:
            return (
                f"Training diverges with exact weights too ({self.diverged}), which no weight history can mend: lower "
                f"the learning rate, {self.learning_rate:.3g} now, for example to {self.learning_rate / 3:.2g}."
            )
        if self.value is None:
            return f"No advice: {RULE.meaning} could not be measured, since gradients or updates vanish."
        fitted = f"rule of thumb, fitted on {RULE.cells} cells: {RULE.words} it can go"
        found = f"{RULE.meaning} is {self.value:.3g} ({fitted})"
        if self.verdict == "drop":
            return f"Drop the weight history: {found}."
        return f"Keep a weight history: {found}; {self._remedy()}."

    def _remedy(self) -> str:
        aligned = {
            n: q.alignment for n, q in self.total.strategies.items() if n != "latest" and q.alignment is not None
        }
        best = max(aligned, key=aligned.__getitem__, default=None)
        if best is None:
            return "the safe one is stash"
        return f"of the reconstructions {best} comes closest ({aligned[best]:.3f}), and stash is exact"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with ``verdict``, ``sentence`` and ``predictors``."""
        derived = {"verdict": self.verdict, "sentence": self.sentence, "predictors": predictors(self)}
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages], **derived}


def predictors(advice: Advice) -> dict[str, float]:
    """What may predict the accuracy that a strategy loses, flat: name -> value; what could not be measured is left out.

    ``drift``, ``update_correlation``, ``error.<strategy>``, ``alignment.<strategy>``, ``norm_ratio.<strategy>`` and
    ``gradient_error.<strategy>`` are means over the stages, weighted by their parameters; with ``.worst`` behind them
    the value of the worst stage (the largest; of the alignment the smallest). ``curvature``, ``step``, ``margin``
    (step / bound) and ``shared_margin`` (step / shared bound) belong to the whole network.
    """
    found: dict[str, float | None] = {}
    whole = _flat(advice.total)
    each = [_flat(stage) for stage in advice.stages]
    for name, value in whole.items():
        found[name] = value
        values = [row[name] for row in each]
        known = [v for v in values if v is not None]
        worst = min if name.startswith("alignment.") else max
        found[f"{name}.worst"] = worst(known) if known else None
    if advice.stability is not None:
        s = advice.stability
        found |= {"curvature": s.curvature, "step": s.step}
        found |= {"margin": s.step / s.bound, "shared_margin": s.step / s.shared_bound}
    return {name: value for name, value in found.items() if value is not None}


def _flat(measured: Measured) -> dict[str, float | None]:
    own = {"drift": measured.drift, "update_correlation": measured.update_correlation}
    names = [field.name for field in fields(Quality)]
    return own | {f"{n}.{s}": getattr(q, n) for s, q in measured.strategies.items() for n in names}


def total_of(stages: tuple[Measured, ...]) -> Measured:
    """Means over the stages, weighted by their parameters; a value that a stage does not have is left out."""

    def mean(values: list[float | None]) -> float | None:
        pairs = [(s.parameters, v) for s, v in zip(stages, values, strict=True) if v is not None]
        return sum(n * v for n, v in pairs) / sum(n for n, _ in pairs) if pairs else None

    strategies = {
        name: Quality(*(mean([getattr(s.strategies[name], field.name) for s in stages]) for field in fields(Quality)))
        for name in stages[0].strategies
    }
    return Measured(
        stage=None,
        delay=max(s.delay for s in stages),
        parameters=sum(s.parameters for s in stages),
        drift=mean([s.drift for s in stages]),
        update_correlation=mean([s.update_correlation for s in stages]),
        strategies=strategies,
    )
