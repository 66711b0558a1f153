"""Studies as values: names, pruners and objectives that go together, seeds of samplers, what two studies differ in."""

import math

import optuna
import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.tuning.settings import GRID, LISTED, POINTWISE, PRUNERS, SAMPLERS, StudySettings, in_words
from layerpipe2.lab.tuning.tune import study_settings


def settings(**changes):
    values = {"config": RunConfig(), "space": {"lr": "log:0.001:1"}, "trials": 30} | changes
    return StudySettings(**values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ("loss", "loss"), "pruner": "none"}, "give a list of distinct names"),
        ({"objectives": ()}, r"objectives is \(\); give"),
        ({"trials": 0}, "trials is 0; give an integer >= 1 and <= "),
        ({"seed": -1}, "seed is -1; give an integer >= 0"),
        ({"budget": 3}, "unknown key 'budget'; known:"),
    ],
)
def test_what_does_not_go_together_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as refused:
        settings(**changes)
    assert "\n" not in str(refused.value)


def test_a_study_is_read_as_it_was_written():
    made = settings(space={"momentum": "uniform:0:.99 if optimizer=sgd", "optimizer": "choice:sgd,adamw"})
    values = made.to_dict()
    assert StudySettings(**values | {"config": RunConfig(**values["config"])}) == made
    assert made.differs(StudySettings(**values | {"config": RunConfig(**values["config"])})) is None


@pytest.mark.parametrize(
    ("changes", "different"),
    [
        ({"space": {"lr": "log:0.001:2"}}, "space"),
        ({"space": {"lr": "log:0.0010:1.0"}}, None),
        ({"config": RunConfig(epochs=3)}, "epochs"),
        ({"objectives": ("loss",)}, "objectives"),
        ({"sampler": "random"}, "sampler"),
        ({"pruner": "none"}, "pruner"),
        ({"seed": 1}, "seed"),
        ({"in_order": True}, "in_order"),
        ({"code": "abc"}, "code"),
        ({"trials": 40, "commit": "0123abc"}, None),
    ],
)
def test_what_tells_two_studies_apart(changes, different):
    assert settings(**changes).differs(settings()) == different


def test_trials_of_a_grid_are_its_points_in_their_order():
    space = {"lr": "choice:0.1,0.2", "momentum": "choice:0.0,0.9"}
    one = settings(sampler=GRID, space=space, trials=4, pruner="none")
    found = []
    for number in range(4):
        study = optuna.create_study(sampler=one.sampler_of(number))
        config = one.ranges.suggest(study.ask(), one.config)
        found.append((config.lr, config.momentum))
    assert found == [(0.1, 0.0), (0.1, 0.9), (0.2, 0.0), (0.2, 0.9)]
    assert one.ranges.outermost({"lr": 0.1, "momentum": 0.9}) == ["lr", "momentum"]
    with pytest.raises(UserError, match="trials is 3, but the grid has 4 points; give 4"):
        settings(sampler=GRID, space=space, trials=3)


def test_listed_trials_have_one_choice_of_every_setting_each():
    one = settings(
        sampler=LISTED, space={"lr": "choice:0.1,0.2", "momentum": "choice:0.9,0.0"}, trials=2, pruner="none"
    )
    found = []
    for number in range(2):
        config = one.ranges.suggest(optuna.create_study(sampler=one.sampler_of(number)).ask(), one.config)
        found.append((config.lr, config.momentum))
    assert found == [(0.1, 0.9), (0.2, 0.0)]
    with pytest.raises(UserError, match="trials is 2, but momentum lists 3 choices; give 2"):
        settings(sampler=LISTED, space={"lr": "choice:0.1,0.2", "momentum": "choice:0.9,0.0,0.5"}, trials=2)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in POINTWISE])
def test_a_trials_value_follows_from_the_seed_and_its_number(name):
    """Of trials behind the first ones, which are spread evenly: without any others to learn from they are random."""

    def draw(number, seed=0):
        one = settings(sampler=name, seed=seed)
        study = optuna.create_study(sampler=one.sampler_of(number))
        return one.ranges.suggest(study.ask(), one.config).lr

    values = [draw(number) for number in range(10, 20)]
    assert values == [draw(number) for number in range(10, 20)]
    assert len(set(values)) == 10
    assert draw(10, seed=1) not in values
    spread = [draw(number) for number in range(3)]
    assert len(set(spread)) == 3
    assert (spread == [draw(number, seed=1) for number in range(3)]) == (name != "random")


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_samplers_learn(name):
    one = settings(sampler=name, trials=16)
    study = optuna.create_study(direction="maximize")
    values = []
    for number in range(16):
        study.sampler = one.sampler_of(number)
        trial = study.ask()
        values.append(one.ranges.suggest(trial, one.config).lr)
        study.tell(trial, -abs(math.log(values[-1] / 0.1)))
    near = [0.05 < value < 0.2 for value in values]
    assert sum(near[:5]) < sum(near[-5:])


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_pruners_fit_any_number_of_epochs(name, epochs):
    study = optuna.create_study(direction="maximize", pruner=PRUNERS[name](epochs))
    pruned = 0
    for quality in range(12):
        trial = study.ask()
        for epoch in range(epochs):
            trial.report(-quality, epoch)
            pruned += trial.should_prune()
        study.tell(trial, -quality)
    assert bool(pruned) == (name != "none" and epochs == 30) or epochs == 2


def test_runs_at_all_ends_of_a_space_are_built_before_a_study_begins():
    with pytest.raises(UserError, match="unknown strategy 'latst'; did you mean 'latest'"):
        study_settings(RunConfig(), {"strategy": "choice:stash,latst"}, trials=3)
    with pytest.raises(UserError, match="unknown strategy 'ema-spam'"):
        study_settings(RunConfig(strategy="ema-spam"), {"lr": "log:1e-3:1"}, trials=3)


def test_objectives_have_words_and_directions():
    assert in_words([0.932, 1.25], ("accuracy", "copies")) == "accuracy 93.20%, copies 1.25"
    several = settings(objectives=("accuracy", "copies", "time"), pruner="none")
    assert several.directions == ["maximize", "minimize", "minimize"]
