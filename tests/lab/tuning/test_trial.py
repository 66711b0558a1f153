"""One trial: pruned by a callback in anybody's Lightning loop, its record, its values."""

import math
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.tuning.settings import StudySettings, quiet
from layerpipe2.lab.tuning.trial import PruneBadTrials, modelled_time, tell_arguments, train_trial, values_of
from tests.lab.tuning.studies import SMALL
from tests.made_records import record


class Pruner(optuna.pruners.BasePruner):
    """Says the same to everybody."""

    def __init__(self, prune):
        self.answer = prune

    def prune(self, study, trial):
        return self.answer


def validated(metrics, *, prune=True, epoch=0, epochs=5, before=(), **more):
    """A callback and its trainer after a validation with these metrics; ``before``: epochs that a killed owner told."""
    trial = optuna.create_study(pruner=Pruner(prune)).ask()
    for told in before:
        trial.report(0.5, told)
    callback = PruneBadTrials(trial)
    now = {"sanity_checking": False, "current_epoch": epoch, "max_epochs": epochs, "should_stop": False} | more
    trainer = SimpleNamespace(callback_metrics=metrics, **now)
    callback.on_validation_end(trainer, None)
    return callback, trainer


def reported(callback):
    return callback.trial.study.trials[0].intermediate_values


@pytest.mark.parametrize("prune", [True, False])
def test_a_pruned_trial_stops(prune):
    callback, trainer = validated({"val_accuracy": 0.5}, prune=prune, epoch=2)
    assert (callback.pruned, trainer.should_stop) == (prune, prune)
    assert reported(callback) == {2: 0.5}


@pytest.mark.filterwarnings("ignore:The reported value is ignored")
@pytest.mark.parametrize(("epoch", "pruned"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_trial_that_is_done_again_is_not_pruned_before_it_is_where_it_was(epoch, pruned):
    """The pruner sees the newest value in the storage, which is of a later epoch."""
    assert validated({"val_accuracy": 0.5}, epoch=epoch, before=(0, 1, 2))[0].pruned == pruned


@pytest.mark.parametrize(
    ("more", "stops"),
    [({"epoch": 4}, False), ({"prune": False, "should_stop": True}, True), ({"sanity_checking": True}, False)],
)
def test_the_last_epoch_ends_and_lightnings_check_begins_without_a_stop_and_who_stops_still_stops(more, stops):
    callback, trainer = validated({} if "sanity_checking" in more else {"val_accuracy": 0.5}, **more)
    assert trainer.should_stop == stops
    assert bool(reported(callback)) != ("sanity_checking" in more)


@pytest.mark.parametrize("metrics", [{"val_accuracy": math.nan}, {"val_accuracy": 0.1, "val_loss": math.inf}])
def test_what_has_diverged_stops_at_once_and_is_not_reported(metrics):
    callback, trainer = validated(metrics, prune=False)
    assert (callback.pruned, trainer.should_stop) == (True, True)
    assert reported(callback) == {}


def test_a_metric_that_is_not_logged_is_one_line():
    with pytest.raises(UserError, match="unknown metric 'val_accuracy'; did you mean 'val_acuracy'"):
        validated({"val_acuracy": 0.5})


@pytest.mark.parametrize(("answer", "state"), [(True, "pruned"), (False, "completed")])
def test_a_pruned_run_has_a_record_of_the_epochs_so_far(answer, state):
    trial = optuna.create_study(pruner=Pruner(answer)).ask()
    made = train_trial(trial, SMALL.copy_with(epochs=2), ("loss",))
    assert (made["status"], made["test"], len(made["epochs"])) == (state, None, 1 if answer else 2)
    losses = {row["epoch"]: pytest.approx(row["val_loss"]) for row in made["epochs"]}
    assert trial.study.trials[0].intermediate_values == losses
    told = {"state": TrialState.PRUNED} if answer else {"values": [losses[1]]}
    assert [tell_arguments(made, ("loss",), sampler) for sampler in ("tpe", "gp")] == [told, told]


def test_values_are_those_of_the_record():
    made = record("stash")
    assert values_of(made, ("accuracy", "loss", "copies")) == [0.75, 1.0, 80 / 60]
    assert values_of(made, ("time",)) == [modelled_time(RunConfig(**made["config"]))]
    assert values_of(record(diverged=True), ("loss",)) is None


@pytest.mark.parametrize(("sampler", "several"), [("tpe", False), ("tpe", True), ("gp", False), ("gp", True)])
def test_a_sampler_keeps_away_from_where_runs_diverge(sampler, several):
    """They do in one half of the range; Optuna's failed trials would be drawn there in three of four cases."""
    objectives = ("loss", "copies")[: 1 + several]
    one = StudySettings(
        config=SMALL, space={"lr": "log:0.001:1000"}, trials=24, objectives=objectives, sampler=sampler, pruner="none"
    )
    with quiet():
        study = optuna.create_study(directions=one.directions)
        for number in range(one.trials):
            study.sampler = one.sampler_of(number)
            trial = study.ask()
            rate = one.ranges.suggest(trial, one.config).lr
            made = record(diverged=rate > 1)
            made["epochs"][-1]["val_loss"] = abs(math.log(rate / 0.5))
            study.tell(trial, **tell_arguments(made, objectives, sampler))
    rates = [trial.params["lr"] for trial in study.trials]
    assert sum(rate > 1 for rate in rates[: one.first]) >= 3
    assert sum(rate > 1 for rate in rates[one.first :]) <= 8


def test_the_modelled_time_falls_with_the_number_of_stages_and_is_one_without_a_pipeline():
    times = [modelled_time(RunConfig(group_size=size)) for size in (9, 5, 3, 1)]
    assert times[0] == modelled_time(RunConfig(strategy="sequential")) == 1.0
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 4
    custom = RunConfig(group_size=3, convention="custom", delays=(4, 2, 0))
    assert modelled_time(custom) == times[2]
    assert 0 < modelled_time(RunConfig(network="gpt", dataset="python-docs", group_size=2)) < 1
