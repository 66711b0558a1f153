"""A study: its budget, stops and kills, several processes, records, what another study is, what isn't looked at."""

import math
import os
import signal
from dataclasses import replace

import optuna
import pytest
import pytorch_lightning as pl
import torch
from optuna.trial import TrialState

from layerpipe2.errors import UserError
from layerpipe2.lab.data import load
from layerpipe2.lab.provenance import git_state
from layerpipe2.lab.runs import worker
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.tuning import study as studies
from layerpipe2.lab.tuning.results import status
from layerpipe2.lab.tuning.settings import PRUNERS, quiet
from layerpipe2.lab.tuning.study import open_existing, work
from layerpipe2.lab.tuning.tune import tune
from tests.chaos.processes import ended, fork
from tests.lab.tuning.studies import SMALL, SPACE, diverged, made_up, outcome, runs_are, small_study

QUICK = SMALL.copy_with(epochs=1, max_steps=2)


def test_every_trial_is_a_run_with_its_record(tmp_path):
    study = tune(QUICK, SPACE, folder=tmp_path, trials=2)
    for trial in study.trials():
        record = read_record(study.path(trial.number))
        assert record["config"] == QUICK.copy_with(lr=trial.params["lr"]).to_dict()
        assert (record["status"], record["test"]) == ("completed", None)
        assert trial.values == [record["epochs"][-1]["val_accuracy"]]
    again = open_existing(tmp_path).settings
    assert (again.space, again.trials, again.config) == ({"lr": "log:0.001:1"}, 2, QUICK)
    assert again.commit == git_state(studies.Path(studies.__file__).parent)[0]
    assert sorted(path.name for path in (tmp_path / "trials").iterdir()) == ["00000.json", "00001.json"]


def test_the_test_part_is_not_looked_at(tmp_path, monkeypatch):
    first = tune(QUICK, SPACE, folder=tmp_path / "first", trials=2)
    data = load("digits")
    other = replace(data, x_test=torch.zeros_like(data.x_test), y_test=torch.zeros_like(data.y_test))
    monkeypatch.setattr(worker, "load_once", lambda dataset, root: other)
    monkeypatch.delattr(pl.Trainer, "test")
    assert outcome(tune(QUICK, SPACE, folder=tmp_path / "second", trials=2)) == outcome(first)


def test_ctrl_c_leaves_a_study_that_goes_on(tmp_path, monkeypatch):
    def interrupted(trial, config, objectives):
        if trial.number == 2:
            trial.report(0.5, 0)
            raise KeyboardInterrupt
        return made_up(trial, config, objectives)

    study = small_study(tmp_path, pruner="none")
    with runs_are(interrupted, monkeypatch), pytest.raises(KeyboardInterrupt):
        work([study])
    before = outcome(study)
    assert [row[1] for row in before] == ["COMPLETE"] * 2 + ["WAITING"] * 4
    with runs_are(made_up, monkeypatch) as done:
        again = small_study(tmp_path, pruner="none")
        work([again])
    assert done == [2, 3, 4, 5]
    assert outcome(again)[:2] == before[:2]
    assert outcome(again)[2][2] == before[2][2]
    assert not list(tmp_path.rglob("*.lock"))


def killed(how, folder, monkeypatch, log, trial_number=2):
    """Work in a process of its own that is killed within a trial; how it ended."""

    def dies(trial, config, objectives):
        record = made_up(trial, config, objectives)
        if trial.number == trial_number and how == "in training":
            os.kill(os.getpid(), signal.SIGKILL)
        return record

    def child():
        if how == "before the study knows":
            tell = optuna.Study.tell

            def last(self, trial, **more):
                os.kill(os.getpid(), signal.SIGKILL) if trial.number == trial_number else tell(self, trial, **more)

            monkeypatch.setattr(optuna.Study, "tell", last)
        with runs_are(dies, monkeypatch):
            work([small_study(folder, pruner="none")])

    return ended(fork(child, log))


@pytest.mark.parametrize("how", ["in training", "before the study knows"])
def test_a_killed_process_loses_nothing_and_nothing_is_done_twice(how, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    assert killed(how, folder, monkeypatch, tmp_path / "said") == -signal.SIGKILL
    study = small_study(folder, pruner="none")
    before = outcome(study)
    assert [row[1] for row in before] == ["COMPLETE"] * 2 + ["RUNNING"] + ["WAITING"] * 3
    assert status(study).counts == {"completed": 2, "waiting": 4}
    with runs_are(made_up, monkeypatch) as done:
        work([study])
    assert done == ([2, 3, 4, 5] if how == "in training" else [3, 4, 5])
    assert outcome(study)[:2] == before[:2]
    assert outcome(study)[2][2] == before[2][2]
    assert [read_record(study.path(number))["status"] for number in range(6)] == ["completed"] * 6


def test_a_record_that_lies_there_from_before_the_study_is_not_taken_for_its_trials(tmp_path, monkeypatch):
    with runs_are(made_up, monkeypatch):
        work([small_study(tmp_path)])
    (tmp_path / "journal.log").unlink()
    with runs_are(made_up, monkeypatch) as done:
        work([small_study(tmp_path)])
    assert len(done) == 6


def test_a_larger_budget_adds_trials_and_a_smaller_one_is_refused(tmp_path, monkeypatch):
    with runs_are(made_up, monkeypatch) as done:
        work([small_study(tmp_path, trials=4)])
        first = outcome(small_study(tmp_path, trials=4))
        study = small_study(tmp_path, trials=7)
        work([study])
    assert done == list(range(7))
    assert outcome(study)[:4] == first
    with pytest.raises(UserError, match="study study has 7 trials, not 6; give at least as many"):
        small_study(tmp_path, trials=6)


def test_other_code_is_refused_also_of_who_joins(tmp_path, monkeypatch):
    small_study(tmp_path)
    monkeypatch.setattr("layerpipe2.versions.code_hash", lambda parts: "another")
    monkeypatch.setattr("layerpipe2.lab.tuning.tune.code_hash", lambda parts: "another")
    message = r"study study was made with other code \(commit \w+\); give another folder or name"
    with pytest.raises(UserError, match=message):
        small_study(tmp_path)
    with pytest.raises(UserError, match=message):
        work([open_existing(tmp_path)])
    assert status(open_existing(tmp_path)).total == 6  # may be looked at


def test_another_commit_with_the_same_code_goes_on(tmp_path, monkeypatch):
    small_study(tmp_path)
    monkeypatch.setattr("layerpipe2.lab.tuning.tune.git_state", lambda folder: ("0123abc", True))
    assert small_study(tmp_path).settings.commit != "0123abc"


def test_a_study_in_order_gives_the_same_trials_again(tmp_path, monkeypatch):
    settings = {"in_order": True, "trials": 12, "space": SPACE | {"momentum": "uniform:0:0.9"}}
    with runs_are(made_up, monkeypatch):
        first = small_study(tmp_path / "first", **settings)
        work([first])
        second = small_study(tmp_path / "second", **settings)
        children = [fork(lambda: work([open_existing(second.folder)]), tmp_path / "said") for _ in range(2)]
        assert [ended(child) for child in children] == [0, 0]
    assert outcome(second) == outcome(first)
    assert len({row[2]["lr"] for row in outcome(first)}) == 12


def test_several_processes_share_a_study_and_no_trial_is_done_twice(tmp_path, monkeypatch):
    def noted(trial, config, objectives):
        with (tmp_path / "done").open("a") as file:
            file.write(f"{trial.number}\n")
        return made_up(trial, config, objectives)

    with runs_are(noted, monkeypatch):
        study = small_study(tmp_path / "study", trials=30)
        children = [fork(lambda: work([open_existing(study.folder)]), tmp_path / "said") for _ in range(3)]
        assert [ended(child) for child in children] == [0, 0, 0]
    assert sorted(map(int, (tmp_path / "done").read_text().split())) == list(range(30))
    assert len({trial.user_attrs["worker"][1] for trial in study.trials()}) > 1


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "copies")])
def test_a_trial_that_diverges_ends_at_once_and_is_never_the_best(objectives, tmp_path):
    config = SMALL.copy_with(schedule="constant", weight_decay=1e15)
    pruner = "median" if len(objectives) == 1 else "none"
    study = tune(config, {"lr": "log:1e14:1e15"}, folder=tmp_path, trials=1, objectives=objectives, pruner=pruner)
    (trial,) = study.trials()
    worst = (TrialState.COMPLETE, [-math.inf, math.inf])
    assert (trial.state, trial.values) == ((TrialState.PRUNED, None) if len(objectives) == 1 else worst)
    with quiet():
        assert study.optuna_study.metric_names == list(objectives)
    record = read_record(study.path(0))
    assert (record["status"], len(record["epochs"]), record["test"]) == ("diverged", 1, None)
    assert (status(study).counts, status(study).best) == ({"diverged": 1}, [])


@pytest.mark.parametrize("name", PRUNERS)
def test_bad_trials_are_pruned_and_have_records(name, tmp_path, monkeypatch):
    study = small_study(tmp_path, trials=20, config=SMALL.copy_with(epochs=9), pruner=name, sampler="random")
    with runs_are(made_up, monkeypatch):
        work([study])
    pruned = [trial for trial in study.trials() if trial.state == TrialState.PRUNED]
    assert bool(pruned) == (name != "none")
    assert status(study).counts.get("pruned", 0) == len(pruned)
    for trial in pruned:
        record = read_record(study.path(trial.number))
        assert (record["status"], record["test"]) == ("pruned", None)
        assert len(record["epochs"]) == len(trial.intermediate_values) < 9
    best = max(trial.values[0] for trial in study.trials(TrialState.COMPLETE))
    assert status(study).best[0]["values"] == [best]


def test_settings_that_do_not_go_together_cost_a_trial_and_not_the_study(tmp_path, monkeypatch):
    space = {"momentum": "choice:0,0.5", "nesterov": "choice:true,false"}
    study = small_study(tmp_path, space, trials=12, config=SMALL.copy_with(momentum=0.9), sampler="random")
    with runs_are(made_up, monkeypatch):
        work([study])
    found = status(study)
    assert found.finished == 12
    assert 0 < found.counts["refused"] < 12
    assert found.reason.startswith("nesterov is a form of momentum, and momentum is 0")
    refused = [trial for trial in study.trials() if trial.user_attrs["status"] == "refused"]
    assert all(trial.params == {"momentum": 0.0, "nesterov": True} for trial in refused)


def test_a_machine_without_the_data_refuses_no_trial(tmp_path, monkeypatch):
    study = small_study(tmp_path)

    def missing(dataset, root):
        raise UserError("data folder nowhere doesn't exist")

    monkeypatch.setattr(worker, "load_once", missing)
    with pytest.raises(UserError, match="data folder nowhere doesn't exist"):
        work([study])
    assert status(study).counts == {"waiting": 6}


def test_a_deadline_begins_no_further_trial(tmp_path, monkeypatch):
    with runs_are(made_up, monkeypatch) as done:
        work([small_study(tmp_path)], deadline=0.0)
    assert done == []


def test_of_two_owners_the_second_changes_nothing(tmp_path, monkeypatch):
    """A process was suspended, and another has done its trial meanwhile."""

    def twice(trial, config, objectives):
        if trial.number == 1:
            study.optuna_study.tell(trial.number, [0.125])
        return made_up(trial, config, objectives)

    study = small_study(tmp_path, trials=3, pruner="none")
    with runs_are(twice, monkeypatch):
        work([study])
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 3
    assert study.trials()[1].values == [0.125]


def test_records_of_other_machines_are_fetched(tmp_path, monkeypatch):
    study = small_study(tmp_path, trials=2)
    with runs_are(diverged, monkeypatch):
        work([study])
    whole = read_record(study.path(0))
    study.path(0).unlink()
    trial = study.trials()[0]
    trial.user_attrs["record"] = studies.json.dumps(whole)
    assert (study.fetch_records(), study.fetch_records()) == (1, 0)
    assert read_record(study.path(0)) == whole
