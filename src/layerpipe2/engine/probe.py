"""How well would each rule reconstruct the delayed weights? Measured along a training run that it does not touch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from layerpipe2.engine.execution import StagedModule
from layerpipe2.engine.optimizer_view import FlatOptimizer
from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.errors import UserError
from layerpipe2.lightning import pl
from layerpipe2.strategies import State, Strategy, begin, make_strategy
from layerpipe2.strategies.together import update_of


@dataclass
class _Series:
    """A strategy beside the training one, at one stage."""

    strategy: Strategy
    state: State
    errors: list[Tensor] = field(default_factory=list)

    def recalled(self, stage: DelayedWeights) -> Tensor:
        """What its backward pass would read, (N,)."""
        return self.strategy.backward(self.state, stage.latest, stage.used())

    def error(self, stage: DelayedWeights) -> Tensor:
        """``|Ŵ - W(t - d)| / |W(t) - W(t - d)|``, scalar."""
        delayed = stage.used()
        found: Tensor = (self.recalled(stage) - delayed).norm() / (stage.latest - delayed).norm()
        return found


class ReconstructionProbe(pl.Callback):
    """Runs other strategies beside the training one and compares what they recall with ``W(t - d)``.

    The error of a rule at a stage is ``|Ŵ - W(t - d)| / |W(t) - W(t - d)|`` (Euclidean norms over the stage's
    weights): 0 is exact, 1 is no better than using the latest weights. The first ``2 d`` updates, in which the averages
    start, and steps at which the weights did not move do not count.

    Args:
        strategies: names of those to compare, see ``layerpipe2.strategies.STRATEGIES``.
        every_n_steps: distance between two measurements, in optimizer updates; the averages see every update.

    Raises:
        UserError: when training starts, if its strategy lets forward passes read other weights than ``W(t - d)``, or
            several mini-batches make an update.
    """

    def __init__(self, strategies: Sequence[str], every_n_steps: int = 10) -> None:
        self.strategies = list(strategies)
        self.every_n_steps = every_n_steps
        self._series: dict[tuple[int, str], _Series] = {}
        self._updates: list[Callable[[Sequence[Tensor]], None]] = []
        self._delays: dict[int, int] = {}
        self._first: dict[int, int] = {}  # updates that the pipeline had seen when the averages began
        self._resumed: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """States and errors so far, for a Lightning checkpoint."""
        series = self._series.items()
        return {f"{k} {name}": {"state": dict(s.state), "errors": list(s.errors)} for (k, name), s in series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training starts on its device."""
        self._resumed = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew: a training of before has nothing to do with this one's weights."""
        self._series = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start where the pipeline starts; show the optimizer to the strategies before a scheduler moves its rates."""
        stages, empty = _delayed(pl_module), batch_idx == 0 and cast(StagedModule, pl_module).drain
        if not self._series or empty:
            self._start(stages, cast(StagedModule, pl_module).engine.step_count, empty=empty)
        with torch.no_grad():
            for k, series in self._acting("forward"):
                view = FlatOptimizer(trainer.optimizers[0], stages[k].layout, stages[k].latest)
                series.strategy.forward(series.state, stages[k].latest, view)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the update to every strategy; measure every ``every_n_steps`` updates."""
        stages = _delayed(pl_module)
        before = cast(StagedModule, pl_module).engine.step_count - 1
        gradients: dict[int, Tensor] = {}
        for k, series in self._acting("gradient"):
            if k not in gradients:
                gradients[k] = stages[k].gradients()
            series.strategy.gradient(series.state, gradients[k], stages[k].latest, stages[k].latest)
        weights = [stage.row(before) for stage in stages.values()]  # update t put W(t) there
        for update in self._updates:
            update(weights)
        self._step += 1
        for k, lag in self._lags.items():
            torch.clamp(self._step, max=self._delays[k], out=lag)
        done = int(before) + 1
        if done % self.every_n_steps == 0:
            for (k, _), series in self._series.items():
                if self.started(k, done, self._delays[k]):
                    series.errors.append(series.error(stages[k]))

    def started(self, stage: int, updates: int, delay: int) -> bool:
        """Whether a stage's averages have seen ``2 d`` updates, when the pipeline has seen ``updates``."""
        return updates - self._first[stage] >= 2 * delay

    def _acting(self, place: Any) -> Iterator[tuple[int, _Series]]:
        return ((k, series) for (k, _), series in self._series.items() if series.strategy.acts(place))

    def recalled(self, strategy: str, stages: dict[int, DelayedWeights]) -> dict[int, Tensor]:
        """Stage -> the weights (N,) that its backward pass would read now."""
        return {k: self._series[k, strategy].recalled(stage) for k, stage in stages.items()}

    def rows(self) -> list[dict[str, Any]]:
        """Mean error per stage and strategy: ``stage``, ``delay``, ``strategy``, ``relative_error``, ``n``."""
        rows = []
        for (k, name), series in self._series.items():
            errors = torch.stack(series.errors) if series.errors else torch.zeros(0)
            errors = errors[errors.isfinite()]
            mean = float(errors.mean()) if len(errors) else None
            row = {"stage": k, "delay": self._delays[k], "strategy": name, "relative_error": mean, "n": len(errors)}
            rows.append(row)
        return rows

    def _start(self, stages: dict[int, DelayedWeights], step: Tensor, *, empty: bool) -> None:
        self._step = torch.zeros_like(step)
        self._delays = {k: stage.delay for k, stage in stages.items()}
        self._lags = {k: torch.zeros_like(stage.step) for k, stage in stages.items()}
        for k, stage in stages.items():
            for name in self.strategies:
                strategy = make_strategy(name)
                errors = self._series[k, name].errors if (k, name) in self._series else []
                state = begin(strategy, stage.latest, stage.delay, self._step) | {"lag": self._lags[k]}
                series = _Series(strategy, state, errors)
                self._series[k, name] = series
                if self._resumed:
                    saved = self._resumed[f"{k} {name}"]
                    series.errors = [error.to(stage.latest.device) for error in saved["errors"]]
                    for key, value in series.state.items() if not empty else ():
                        value.copy_(saved["state"][key])
                self._first[k] = 0 if empty else int(stage.step) - int(series.state["step"])
        self._resumed = {}
        self._updates = [self._update_of(name, stages) for name in dict.fromkeys(self.strategies)]

    def _update_of(self, name: str, stages: dict[int, DelayedWeights]) -> Callable[[Sequence[Tensor]], None]:
        """What shows a strategy an update of all stages, as a function of their weights before it."""
        series, latest = [self._series[k, name] for k in stages], [stage.latest for stage in stages.values()]
        acting = series and series[0].strategy.acts("update")
        together = update_of(series[0].strategy, [one.state for one in series], latest) if acting else None

        def each(before: Sequence[Tensor]) -> None:
            for one, old, new in zip(series, before, latest, strict=True):
                one.strategy.update(one.state, old, new)

        return together or each


def updates_before(module: StagedModule, batch_idx: int) -> int:
    """How many updates the pipeline has seen before a mini-batch; with drain, an epoch's first finds none."""
    return 0 if module.drain and batch_idx == 0 else int(module.engine.step_count)


def _delayed(module: pl.LightningModule) -> dict[int, DelayedWeights]:
    if not isinstance(module, StagedModule):
        raise TypeError(f"ReconstructionProbe watches a PipelinedModule, not a {type(module).__name__}")
    if module.accumulate > 1:
        raise UserError(
            f"the probe looks at an update after every mini-batch, but accumulate={module.accumulate}; leave it at 1"
        )
    stages = {k: stage for k, stage in module.engine.delayed.items() if stage.delay}
    if any(stage.predicts for stage in stages.values()):
        raise UserError("the strategy chooses the weights of forward passes, so there is no W(t - d) to compare with")
    return stages
