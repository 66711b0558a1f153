"""One trial: the run with the values that a sampler chose, stopped early if a pruner says so; its record."""

from __future__ import annotations

import math
from typing import Any

import optuna
import torch

from layerpipe2.errors import look_up
from layerpipe2.lab.judging.objectives import at_the_end
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import plan_from
from layerpipe2.lab.runs.records import Record
from layerpipe2.lab.runs.worker import train_quietly
from layerpipe2.lightning import pl
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.devices import FlopDevice
from layerpipe2.planning.measure import measure


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
    pruning = [PruneBadTrials(trial, f"val_{objectives[0]}")] if objectives in (("accuracy",), ("loss",)) else []
    record = train_quietly(config, callbacks=pruning, test=False)
    if record["status"] == "completed" and any(one.pruned for one in pruning):
        record["status"] = "pruned"
    return record


def values_of(record: Record, objectives: tuple[str, ...]) -> list[float] | None:
    """What the objectives are in a record; None of one that isn't completed."""
    if record["status"] != "completed":
        return None
    return [_value(record, name) for name in objectives]


def _value(record: Record, objective: str) -> float:
    if objective == "copies":
        return float(record["history_copies"])
    if objective == "time":
        return modelled_time(RunConfig(**record["config"]))
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
    return 1 / Costs(sizes, plan.delays, config.strategy, config.batch_size).speedup(FlopDevice(1.0))


def tell_arguments(record: Record, objectives: tuple[str, ...]) -> dict[str, Any]:
    """What ``optuna.Study.tell`` gets: a diverged run is pruned, or failed where there are several objectives."""
    values = values_of(record, objectives)
    if values is not None:
        return {"values": values}
    several = len(objectives) > 1
    return {"state": optuna.trial.TrialState.FAIL if several else optuna.trial.TrialState.PRUNED}
