"""Tuning from Python: one call, several processes."""

import os
import time

import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.tuning import tune as tuning
from layerpipe2.lab.tuning.results import status
from layerpipe2.lab.tuning.tune import tune
from tests.chaos.processes import descendants
from tests.lab.tuning.studies import SMALL, SPACE, made_up, runs_are
from tests.small_experiments import ROOT

QUICK = SMALL.copy_with(epochs=1, max_steps=2)


@pytest.fixture(autouse=True)
def _this_code(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")


def test_two_processes_share_the_trials(tmp_path, monkeypatch):
    seen, alone, before = [], tuning.work, set(descendants(os.getpid()))

    def late(studies):
        while not status(studies[0]).finished:
            time.sleep(0.1)
        alone(studies)

    monkeypatch.setattr(tuning, "work", late)
    study = tune(QUICK, SPACE, folder=tmp_path, trials=6, jobs=2, follow=seen.append)
    assert status(study).counts == {"completed": 6}
    assert seen[-1].finished == seen[-1].total == 6
    finished = [found.finished for found in seen]
    assert finished == sorted(finished)
    assert len({tuple(trial.user_attrs["worker"][:2]) for trial in study.trials()}) == 2
    assert set(descendants(os.getpid())) <= before


def test_an_error_ends_the_other_processes(tmp_path, monkeypatch):
    before = set(descendants(os.getpid()))

    def fails(trial, config, objectives):
        raise ZeroDivisionError

    with runs_are(fails, monkeypatch), pytest.raises(ZeroDivisionError):
        tune(QUICK, SPACE, folder=tmp_path, trials=50, jobs=2)
    assert set(descendants(os.getpid())) <= before


def test_no_more_processes_than_trials(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(tuning.subprocess, "Popen", lambda command, **more: started.append(command))
    with runs_are(made_up, monkeypatch):
        tune(QUICK, SPACE, folder=tmp_path, trials=1, jobs=8)
    assert started == []


@pytest.mark.parametrize("jobs", [0, 257, True])
def test_a_number_of_processes_that_is_none_is_refused(jobs, tmp_path):
    with pytest.raises(UserError, match=r"jobs is .*; give an integer from 1 to 256"):
        tune(QUICK, SPACE, folder=tmp_path / "study", jobs=jobs)
    assert not (tmp_path / "study").exists()
