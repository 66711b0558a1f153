"""What is measured at the beginning of a training, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, fields

from experiments.predicting.curvature import Stability


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
class Signs:
    """What was measured of a network that is cut into these stages and trained with these settings.

    Attributes:
        stages: the delayed ones.
        total: over all of them.
        stability: learning rate x curvature against theory; ``None`` if it was not measured.
        not_measured: why not.
        updates: how many the measurement spans, behind fill and warm-up.
        diverged: what went wrong, in words, if training diverged though its weights were exact.
    """

    stages: tuple[Measured, ...]
    total: Measured
    stability: Stability | None
    not_measured: str | None
    updates: int
    diverged: str | None


def predictors(signs: Signs) -> dict[str, float]:
    """What may predict the accuracy that a strategy loses, flat: name -> value; what could not be measured is left out.

    ``drift``, ``update_correlation``, ``error.<strategy>``, ``alignment.<strategy>``, ``norm_ratio.<strategy>`` and
    ``gradient_error.<strategy>`` are means over the stages, weighted by their parameters; with ``.worst`` behind them
    the value of the worst stage (the largest; of the alignment the smallest). ``curvature``, ``step``, ``margin``
    (step / bound) and ``shared_margin`` (step / shared bound) belong to the whole network.
    """
    found: dict[str, float | None] = {}
    whole = _flat(signs.total)
    each = [_flat(stage) for stage in signs.stages]
    for name, value in whole.items():
        found[name] = value
        values = [row[name] for row in each]
        known = [v for v in values if v is not None]
        worst = min if name.startswith("alignment.") else max
        found[f"{name}.worst"] = worst(known) if known else None
    if signs.stability is not None:
        s = signs.stability
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
