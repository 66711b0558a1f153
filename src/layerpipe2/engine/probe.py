"""How well would each rule reconstruct the delayed weights? Measured along a training run that it does not touch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.stage import DelayedStage
from layerpipe2.engine.weights import update_rates
from layerpipe2.strategies import State, WeightHistory, make_history
from layerpipe2.strategies.base import Consumes


@dataclass
class _Series:
    history: WeightHistory
    state: State
    errors: list[Tensor] = field(default_factory=list)


class ReconstructionProbe(pl.Callback):
    """Runs other weight histories beside the training one and compares what they recall with ``W(t - d)``.

    The error of a rule at a stage is ``|Ŵ - W(t - d)| / |W(t) - W(t - d)|`` (Euclidean norms over the stage's
    weights): 0 is exact, 1 is no better than using the latest weights. The first ``2 d`` updates, in which the averages
    start, and steps at which the weights did not move do not count.

    Args:
        strategies: names of the histories to compare, see ``layerpipe2.strategies.STRATEGIES``.
        every_n_steps: distance between two measurements, in optimizer updates; the averages see every update.
    """

    def __init__(self, strategies: Sequence[str], every_n_steps: int = 10) -> None:
        self.strategies = list(strategies)
        self.every_n_steps = every_n_steps
        self._series: dict[tuple[int, str], _Series] = {}
        self._delays: dict[int, int] = {}
        self._resumed: dict[str, Any] = {}
        self._rates: dict[nn.Parameter, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """States and errors so far, for a Lightning checkpoint."""
        series = self._series.items()
        return {f"{k} {name}": {"state": dict(s.state), "errors": list(s.errors)} for (k, name), s in series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training starts on its device."""
        self._resumed = state_dict

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the histories where the pipeline starts; note the learning rates before a scheduler moves them."""
        if not self._series or (batch_idx == 0 and cast(PipelinedModule, pl_module).drain):
            self._start(_delayed(pl_module))
        rates = update_rates(trainer.optimizers[0])
        self._rates = {parameter: torch.as_tensor(rate).clone() for parameter, rate in rates.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the update to every history; measure every ``every_n_steps`` updates."""
        stages = _delayed(pl_module)
        now = cast(PipelinedModule, pl_module).engine.step_count
        before, done = now - 1, int(now)
        shown: dict[tuple[int, Consumes], Tensor] = {}  # many histories of a stage take the same
        for (k, _), series in self._series.items():
            stage, consumes = stages[k], series.history.consumes
            if consumes != "nothing":
                if (k, consumes) not in shown:
                    shown[k, consumes] = _update(stage, consumes, before, self._rates)
                series.history.record(series.state, shown[k, consumes], before)
            if done >= 2 * stage.delay and done % self.every_n_steps == 0:
                series.errors.append(_error(series, stage, now))

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

    def _start(self, stages: dict[int, DelayedStage]) -> None:
        for k, stage in stages.items():
            self._delays[k] = stage.delay
            for name in self.strategies:
                history = make_history(name)
                errors = self._series[k, name].errors if (k, name) in self._series else []
                series = _Series(history, history.init(stage.latest, stage.delay), errors)
                self._series[k, name] = series
                if self._resumed:
                    saved = self._resumed[f"{k} {name}"]
                    series.errors = [error.to(stage.latest.device) for error in saved["errors"]]
                    for key, value in series.state.items():
                        value.copy_(saved["state"][key])
        self._resumed = {}


def _delayed(module: pl.LightningModule) -> dict[int, DelayedStage]:
    if not isinstance(module, PipelinedModule):
        raise TypeError(f"ReconstructionProbe watches a PipelinedModule, not a {type(module).__name__}")
    return {k: stage for k, stage in module.engine.delayed.items() if stage.delay}


@torch.no_grad()
def _update(stage: DelayedStage, consumes: Consumes, step: Tensor, rates: dict[nn.Parameter, Any]) -> Tensor:
    if consumes == "gradients":
        return stage.scaled_gradients(rates)
    return stage.delayed(step) - stage.latest  # update t has put W(t) where W(t - d) was


@torch.no_grad()
def _error(series: _Series, stage: DelayedStage, step: Tensor) -> Tensor:
    delayed = stage.delayed(step)
    recalled = series.history.recall(series.state, stage.latest, delayed, step)
    error: Tensor = (recalled - delayed).norm() / (stage.latest - delayed).norm()
    return error
