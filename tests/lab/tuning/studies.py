"""Studies small enough for a test; most of their runs are made up, so that they take no time."""

import math
import os
from contextlib import contextmanager
from types import SimpleNamespace

from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import plan_from
from layerpipe2.lab.tuning import trial as trials
from layerpipe2.lab.tuning.study import open_or_make
from layerpipe2.lab.tuning.trial import PruneBadTrials
from layerpipe2.lab.tuning.tune import study_settings
from tests.made_records import DIVERGENCE, record

SMALL = RunConfig(width=4, group_size=5, epochs=4, batch_size=256)
SPACE = {"lr": "log:0.001:1"}
_MEASURED = ("val_accuracy", "val_loss")
BEST = 0.1
"""The learning rate with the highest accuracy of made-up runs."""


def made_up(trial, config, objectives):
    """In place of ``train_trial``: every epoch is better than the one before, and the pruner may stop the run."""
    peak = 1 / (1 + abs(math.log10(config.lr / BEST)))
    pruning = PruneBadTrials(trial, f"val_{objectives[0]}") if len(objectives) == 1 else None
    trainer = SimpleNamespace(sanity_checking=False, max_epochs=config.epochs, should_stop=False)
    made, rows = record(config.strategy), []
    for epoch in range(config.epochs):
        accuracy = peak * (epoch + 1) / config.epochs
        rows.append(made["epochs"][0] | {"epoch": epoch, "val_accuracy": accuracy, "val_loss": 1 - accuracy})
        trainer.current_epoch, trainer.callback_metrics = epoch, {name: rows[-1][name] for name in _MEASURED}
        if pruning is not None:
            pruning.on_validation_end(trainer, None)
        if trainer.should_stop:
            break
    status = "pruned" if len(rows) < config.epochs else "completed"
    return made | {"config": plan_from(config).config.to_dict(), "status": status, "epochs": rows, "test": None}


def diverged(trial, config, objectives):
    """The same for a run that diverges in its first epoch."""
    row = made_up(trial, config, ("accuracy", "loss"))["epochs"][0] | {"train_loss": None, "val_loss": None}
    made = record(diverged=True) | {"config": plan_from(config).config.to_dict(), "epochs": [row], "test": None}
    return made | {"divergence": DIVERGENCE}


@contextmanager
def runs_are(made, monkeypatch):
    """Within, ``made(trial, config, objectives)`` gives the records; yields the numbers of the trials."""
    done = []

    def train(trial, config, objectives):
        done.append(trial.number)
        return made(trial, config, objectives)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "train_trial", train)
        patch.setattr(os, "fsync", lambda handle: None)  # nobody cuts the power
        yield done


def small_study(folder, space=None, *, config=SMALL, trials=6, url=None, name="study", **settings):
    """A study that is opened, or made, as ``tune`` does it."""
    return open_or_make(study_settings(config, space or SPACE, trials=trials, **settings), folder, url, name)


def outcome(study):
    """What is kept of every trial: number, state, settings, values of every epoch, and of the trial."""
    return [(t.number, t.state.name, t.params, t.intermediate_values, t.values) for t in study.trials()]
