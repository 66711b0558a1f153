"""``layerpipe2 tune``: what it prints, its actions, and every mistake in one line that leaves nothing behind."""

import json

import pytest

from layerpipe2.cli import main
from layerpipe2.lab.tuning.study import open_existing
from tests.lab.tuning.studies import made_up, runs_are

QUICK = ["--width", "4", "--group-size", "5", "--epochs", "4", "--batch-size", "256"]
SPACE = ["--space", "lr=log:0.001:1"]


@pytest.fixture(autouse=True)
def _made_up_runs_in_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with runs_are(made_up, monkeypatch):
        yield


def tuned(*arguments):
    return main(["tune", *arguments])


def test_a_study_is_told_as_it_goes_on_and_at_its_end(tmp_path, capsys):
    assert tuned(*SPACE, *QUICK, "--trials", "5", "--pruner", "none") == 0
    found = capsys.readouterr()
    lines = found.out.splitlines()
    assert lines[0] == "study: 5 of 5 trials finished (5 completed)"
    assert lines[1] == "best trial:"
    best = max(open_existing(tmp_path / "study").trials(), key=lambda trial: trial.values)
    assert lines[2] == f"  {best.number}: accuracy {best.values[0]:.2%}: lr {best.params['lr']:.4g}"
    assert lines[-1] == "records: study/trials"
    assert found.err.splitlines()[-1] == f"study: 5/5 trials, best accuracy {best.values[0]:.2%}"


def test_the_status_of_a_study_is_that_of_its_end_as_text_and_as_json(capsys):
    assert tuned(*SPACE, *QUICK, "--trials", "5", "--quiet") == 0
    first = capsys.readouterr()
    assert first.err == ""
    assert tuned("status") == 0
    assert capsys.readouterr().out == first.out
    assert tuned("status", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["total"], told["finished"], told["objectives"], told["running"]) == (5, 5, ["accuracy"], [])
    assert told["best"][0]["settings"].keys() == {"lr"}


def test_a_process_joins(tmp_path, monkeypatch, capsys):
    def interrupted(trial, config, objectives):
        raise KeyboardInterrupt

    with runs_are(interrupted, monkeypatch):
        assert tuned(*SPACE, *QUICK, "--trials", "3", "--quiet") == 130
    assert capsys.readouterr().err == "layerpipe2: interrupted\n"
    assert tuned("status") == 0
    assert capsys.readouterr().out == "study: 0 of 3 trials finished (3 waiting)\n"
    assert tuned("join") == 0
    assert "3 of 3 trials finished" in capsys.readouterr().out


def test_several_objectives_have_a_front(capsys):
    space = ["--space", "lr=log:0.001:1", "group_size=int:1:4"]
    assert tuned(*space, "--epochs", "4", "--trials", "6", "--objective", "accuracy", "copies", "time") == 0
    text, told = capsys.readouterr()
    assert told.endswith(f", {len(text.splitlines()) - 3} on the Pareto front\n")
    assert "Pareto front (" in text
    assert "accuracy " in text
    assert ", copies " in text
    assert ", time " in text


def test_a_file_of_a_space(tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("lr: log:1e-3:1\nmomentum: uniform:0:0.99 if optimizer=sgd\n")
    assert tuned("--space", "space.yaml", *QUICK, "--trials", "2", "--quiet") == 0
    assert open_existing(tmp_path / "study").settings.space == {
        "lr": "log:0.001:1",
        "momentum": "uniform:0:0.99 if optimizer=sgd",
    }


def test_a_best_value_at_an_end_and_refused_trials_are_told(capsys):
    assert tuned("--space", "lr=log:0.0001:0.01", *QUICK, "--trials", "8", "--quiet") == 0
    assert "the best lr lies at the upper end of its range: move the range and tune again" in capsys.readouterr().out
    space = ["--space", "momentum=choice:0,0.5", "nesterov=choice:true,false"]
    assert tuned(*space, *QUICK, "--trials", "12", "--sampler", "random", "--quiet", "--out", "second") == 0
    assert " trials were refused: nesterov is a form of momentum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to tune; give settings and their ranges, as in --space lr=log:1e-4:1"),
        (["statsu"], "'layerpipe2 tune' can't 'statsu'; did you mean 'status'?"),
        (["--space", "lr"], "--space has 'lr'; write NAME=RANGE, as in lr=log:1e-4:1, or name one .yaml file"),
        (["--space", "lr=log:1:2", "momentum"], "--space has 'momentum'; write NAME=RANGE"),
        (["--space", "lr=log:1:2", "lr=log:1:3"], "--space has a setting twice; give each one range"),
        (["--space", "lrr=log:1:2"], "space has the unknown setting 'lrr'; did you mean 'lr'?"),
        (["--space", "lr=log:1"], "space.lr is 'log:1'; give log:LOW:HIGH"),
        (["--space", "none.yaml"], "none.yaml can't be read (No such file or directory)"),
        (["--space", "momentum=uniform:0:1"], "space: momentum is 1.0; give a finite number >= 0 and < 1"),
        (["--space", "group_size=int:1:99"], "group size for 9 units is 99; give an integer from 1 to 9"),
        ([*SPACE, "--objective", "acuracy"], "objectives is ('acuracy',); give a list of distinct names out of"),
        (
            [*SPACE, "--sampler", "tpee"],
            "sampler is 'tpee'; give one of tpe, gp, random, grid, listed; did you mean 'tpe'?",
        ),
        ([*SPACE, "--pruner", "mediann"], "pruner is 'mediann'; give one of median, hyperband, none; did you mean"),
        ([*SPACE, "--objective", "accuracy", "time", "--pruner", "median"], "give the pruner 'none'"),
        ([*SPACE, "--trials", "0"], "'0' is out of range; give an integer from 1 to"),
        ([*SPACE, "--jobs", "0"], "'0' is out of range; give an integer from 1 to 256"),
        (["status"], "there is no study in study; start one with `layerpipe2 tune`, or give its folder (--out)"),
        (["join", "--out", "elsewhere"], "there is no study in elsewhere"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(arguments, message, tmp_path, capsys):
    assert tuned(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("layerpipe2: error: ")
    assert message in said
    assert said.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_study_in_the_folder_is_refused(capsys):
    assert tuned(*SPACE, *QUICK, "--trials", "2", "--quiet") == 0
    capsys.readouterr()
    assert tuned("--space", "lr=log:0.001:2", *QUICK, "--trials", "2") == 2
    message = "study study has another value of space; go on with its own, or give another folder or name"
    assert capsys.readouterr().err == f"layerpipe2: error: {message}\n"
