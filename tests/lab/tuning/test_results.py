"""What a study has found: the best trial, the Pareto front by brute force, what runs where, and the time left."""

import os
import random
import time
from socket import gethostname
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from layerpipe2.lab.judging.objectives import OBJECTIVES
from layerpipe2.lab.tuning.results import best_trials, status
from layerpipe2.lab.tuning.study import SECONDS, work
from layerpipe2.lab.tuning.trial_locks import WORKER
from tests.lab.tuning.studies import SMALL, made_up, runs_are, small_study


def trials_of(values):
    return [optuna.trial.create_trial(state=TrialState.COMPLETE, values=row) for row in values]


def best(values, objectives):
    """Of trials with these values."""
    trials = trials_of(values)
    study = SimpleNamespace(settings=SimpleNamespace(objectives=objectives))
    return [tuple(trial.values) for trial in best_trials(study, trials)]


@pytest.mark.parametrize("objectives", [("accuracy", "copies"), ("loss", "time"), ("accuracy", "copies", "time")])
def test_the_front_is_that_of_brute_force(objectives):
    chance = random.Random(0)
    values = [tuple(chance.randrange(8) for _ in objectives) for _ in range(60)]

    def better(a, b):
        """Whether ``a`` is at least as good everywhere, and better somewhere."""
        signs = [1 if OBJECTIVES[name].direction == "maximize" else -1 for name in objectives]
        gains = [sign * (x - y) for sign, x, y in zip(signs, a, b, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    expected = [point for point in values if not any(better(other, point) for other in values)]
    assert 0 < len(set(expected)) < len(set(values))
    assert best(values, objectives) == expected


def test_the_best_is_the_largest_accuracy_or_the_smallest_loss_and_of_equals_the_first():
    assert best([(0.5,), (0.75,), (0.25,)], ("accuracy",)) == [(0.75,)]
    assert best([(0.5,), (0.75,), (0.25,)], ("loss",)) == [(0.25,)]
    assert best([], ("loss",)) == []
    first, second = trials_of([(0.5,), (0.5,)])
    study = SimpleNamespace(settings=SimpleNamespace(objectives=("loss",)))
    assert best_trials(study, [first, second])[0] is first


def test_accuracy_against_memory_and_time(tmp_path):
    """Copies and time are those of the plan; a real run each."""
    config = SMALL.copy_with(epochs=1, max_steps=1, network="mlp")
    objectives = ("accuracy", "copies", "time")
    space = {"strategy": "choice:stash,latest", "group_size": "int:3:9"}
    study = small_study(
        tmp_path, space, config=config, trials=4, objectives=objectives, pruner="none", sampler="random"
    )
    work([study])
    for trial in study.trials():
        accuracy, copies, modelled = trial.values
        stages = -(-9 // trial.params["group_size"])
        assert 0 <= accuracy <= 1
        assert 1 / stages <= modelled <= 1
        assert (copies > 0) == (trial.params["strategy"] == "stash" and stages > 1)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Four of eight trials are done, in 10 s each."""
    study = small_study(tmp_path, trials=8, pruner="none")
    with runs_are(made_up, monkeypatch):
        for _ in range(4):
            study.do_one()
    trials = study.trials()
    for trial in trials[:4]:
        trial.user_attrs[SECONDS] = 10.0
    monkeypatch.setattr(
        type(study), "trials", lambda self, *states: [t for t in trials if not states or t.state in states]
    )
    return study


def run_on(trial, host, process, seconds):
    trial.state = TrialState.RUNNING
    trial.user_attrs[WORKER] = [host, process, time.time() - seconds]


def test_what_runs_where_and_the_time_left(study):
    assert status(study).seconds_left == 40
    run_on(study.trials()[4], "elsewhere", 1, 4)
    run_on(study.trials()[5], gethostname(), os.getpid(), 25)
    found = status(study)
    assert (found.total, found.finished) == (8, 4)
    assert found.counts == {"completed": 4, "running": 2, "waiting": 2}
    assert [(row["trial"], row["worker"], round(row["seconds"])) for row in found.running] == [
        (4, "elsewhere 1", 4),
        (5, f"{gethostname()} {os.getpid()}", 25),
    ]
    assert found.seconds_left == pytest.approx((2 * 10 + 6 + 0) / 2, abs=0.5)


def test_a_trial_whose_process_is_gone_waits(study):
    run_on(study.trials()[4], gethostname(), 2**22 + 1, 4)
    found = status(study)
    assert (found.counts, found.running) == ({"completed": 4, "waiting": 4}, [])
    assert found.seconds_left == 40


def test_before_the_first_trial_has_finished_nobody_knows_the_time_left(tmp_path):
    found = status(small_study(tmp_path))
    assert (found.seconds_left, found.best, found.at_an_end, found.reason) == (None, [], {}, None)
