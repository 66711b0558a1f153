"""Pictures of a study: which can be drawn, and why the importance of settings can't."""

import pytest

from layerpipe2.lab.tuning.study import work
from paper_figures import build
from paper_figures.study import catalogue
from tests.lab.tuning.studies import diverged, made_up, runs_are, small_study

TWO = {"lr": "log:0.001:1", "momentum": "uniform:0:0.9"}
ALIKE = {"momentum": "uniform:0:0.9", "weight_decay": "uniform:0:0.1"}
"""Settings that the accuracy of made-up runs doesn't depend on."""


def every_third_diverges(trial, config, objectives):
    return (made_up if trial.number % 3 else diverged)(trial, config, objectives)


@pytest.mark.parametrize(
    ("space", "trials", "why"),
    [
        (TWO, 12, None),
        ({"lr": "log:0.001:1"}, 12, "1 setting is tuned in every trial, and shares of the variance take two"),
        (TWO | {"momentum": "uniform:0:0.9 if nesterov=false"}, 12, None),
        (TWO, 11, "7 trials have completed, and it takes 8"),
        (ALIKE, 12, "all completed trials have the same accuracy"),
    ],
    ids=["drawn", "one setting", "a condition that holds", "few trials", "one value"],
)
def test_the_importance_of_settings_is_drawn_or_a_line_says_why_not(space, trials, why, tmp_path, monkeypatch, capsys):
    study = small_study(tmp_path, space, trials=trials, objectives=("accuracy", "copies"), pruner="none")
    with runs_are(every_third_diverges, monkeypatch):
        work([study])
    assert ("importance" in catalogue(study)) == (why is None)
    for name, draw in catalogue(study).items():
        if name in ("importance", "front"):
            assert draw().axes
    monkeypatch.setattr("paper_figures.study.catalogue", lambda study: {})
    build.draw_study(tmp_path)
    assert capsys.readouterr().out == (f"no picture of the importance of settings: {why}\n" if why else "")
