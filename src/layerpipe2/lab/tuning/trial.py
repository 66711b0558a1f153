"""One trial: the run with the values that a sampler chose, stopped early if a pruner says so; its record."""

from __future__ import annotations

import math
from typing import Any

import optuna
import torch

from layerpipe2.errors import look_up
from layerpipe2.lab.judging.objectives import OBJECTIVES, at_the_end
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.own.training import OwnRun, called
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import Plan, plan_from
from layerpipe2.lab.runs.records import Record, not_finite
from layerpipe2.lab.runs.worker import train_quietly
from layerpipe2.lab.tuning.settings import StudySettings
from layerpipe2.lightning import pl
from layerpipe2.planning import StageWork
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.devices import FlopDevice
from layerpipe2.planning.measure import measure, measure_from


class PruneBadTrials(pl.Callback):
    """Reports a validation metric to an ``optuna.Trial`` after every epoch, and stops training if it is bad.

    For any Lightning module, a user's own among them. A trial whose metric isn't finite is stopped at once.

    Args:
        trial: of a study with one objective.
        monitor: the metric's name.

    Attributes:
        pruned: whether training was stopped; the trial is then to be told as pruned.

    Raises:
        UserError: if validation has logged no such metric.
    """

    def __init__(self, trial: optuna.Trial, monitor: str = "val_accuracy") -> None:
        self.trial, self.monitor, self.pruned = trial, monitor, False
        # What an owner that was killed has reported stays, and the pruner would judge the trial by it: it isn't asked
        # before this epoch, so that a trial which is done again is pruned where it would have been.
        self._reported = max(trial.storage.get_trial(trial._trial_id).intermediate_values, default=-1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report; ask the pruner."""
        if trainer.sanity_checking:
            return
        value = float(look_up(trainer.callback_metrics, self.monitor, "metric"))
        if all(map(math.isfinite, (value, float(trainer.callback_metrics.get("val_loss", value))))):
            self.trial.report(value, trainer.current_epoch)
            last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
            self.pruned = not last and trainer.current_epoch >= self._reported and self.trial.should_prune()
        else:
            self.pruned = True
        trainer.should_stop = trainer.should_stop or self.pruned


def train_trial(trial: optuna.Trial, config: RunConfig, objectives: tuple[str, ...]) -> Record:
    """The record of the run, without a test; ``pruned`` if the pruner has stopped it.

    Raises:
        UserError: on settings that don't go together.
    """
    pruning = _pruning(trial, objectives)
    record = train_quietly(config, callbacks=pruning, test=False)
    if record["status"] == "completed" and any(one.pruned for one in pruning):
        record["status"] = "pruned"
    return record


def train_own_trial(trial: optuna.Trial, config: RunConfig, settings: StudySettings) -> Record:
    """What the other functions here read of a run's record, for a network of one's own; nothing keeps it.

    Raises:
        UserError: on settings that don't go together.
    """
    objectives, name = settings.objectives, str(settings.module)
    run = OwnRun.made(name, called(name, config), config, at=settings.at)
    pruning = _pruning(trial, objectives)
    rows, plan = run.train(pruning)
    diverged = not_finite(rows) is not None
    pruned = any(one.pruned for one in pruning)
    record: Record = {"status": "diverged" if diverged else "pruned" if pruned else "completed", "epochs": rows}
    if "time" in objectives:
        record["time"] = _relative_time(measure_from(run.stages, run.x), plan, len(run.x))
    return record | {"config": config.to_dict(), "history_copies": plan.history_copies()}


def _pruning(trial: optuna.Trial, objectives: tuple[str, ...]) -> list[PruneBadTrials]:
    return [PruneBadTrials(trial, f"val_{objectives[0]}")] if objectives in (("accuracy",), ("loss",)) else []


def values_of(record: Record, objectives: tuple[str, ...]) -> list[float] | None:
    """What the objectives are in a record; None of one that isn't completed."""
    if record["status"] != "completed":
        return None
    return [_value(record, name) for name in objectives]


def _value(record: Record, objective: str) -> float:
    if objective == "copies":
        return float(record["history_copies"])
    if objective == "time":
        return float(record["time"]) if "time" in record else modelled_time(RunConfig(**record["config"]))
    return at_the_end(record, objective)


def modelled_time(config: RunConfig) -> float:
    """Time of a mini-batch on one processor per stage as a share of one processor's, in (0, 1].

    The iteration bound of :mod:`layerpipe2.planning.costs`, for processors that do as many operations per second
    whatever their shapes, without communication.
    """
    from layerpipe2.lab.data import describe

    plan = plan_from(config)
    dtype = torch.float32 if NETWORKS[config.network].takes == "images" else torch.int64
    sizes = measure(plan.stages, describe(config.dataset).input_shape, config.batch_size, dtype)
    return _relative_time(sizes, plan, config.batch_size)


def _relative_time(sizes: tuple[StageWork, ...], plan: Plan, batch_size: int) -> float:
    return 1 / Costs(sizes, plan.delays, plan.config.strategy, batch_size).speedup(FlopDevice(1.0))


def tell_arguments(record: Record, objectives: tuple[str, ...], sampler: str) -> dict[str, Any]:
    """What ``optuna.Study.tell`` gets, so that the sampler learns where runs diverge.

    Of one objective, TPE puts pruned trials behind the completed ones, and among themselves in the order of their
    length. Where it can't, and a Gaussian process, which looks at completed trials only, get a diverged run's values:
    the worst ones, infinite, which importances, pictures and the choice of the best trial leave out.
    """
    values = values_of(record, objectives)
    if values is not None:
        return {"values": values}
    if record["status"] == "diverged" and (len(objectives) > 1 or sampler == "gp"):
        return {"values": [OBJECTIVES[name].worst for name in objectives]}
    return {"state": optuna.trial.TrialState.PRUNED}
