"""Spaces as text: every form, conditions, refusals in one line; ends of ranges, and ranges moved there."""

import optuna
import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.tuning.space import Space

CONFIG = RunConfig()


def space(config=CONFIG, **texts):
    return Space.of(texts, config)


def drawn(ranges, **fixed):
    """The configuration that a trial with these values gets, and the names of the settings that it was asked for."""
    trial = optuna.trial.FixedTrial(fixed)
    return ranges.suggest(trial, CONFIG), set(trial.params)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "log:0.0001:1", 0.5),
        ("momentum", "uniform:0:0.99", 0.25),
        ("weight_decay", "uniform:0:1e-2", 0.0),
        ("group_size", "int:1:4", 3),
        ("width", "int-log:8:64", 17),
        ("stash_epochs", "int:0:3", 2),
        ("optimizer", "choice:sgd,adamw", "adamw"),
        ("drain", "choice:true,false", True),
        ("batch_size", "choice:32,64", 32),
        ("lr", "choice:0.1,0.01", 0.01),
        ("gradient_clip_norm", "choice:none,1", 1.0),
        ("gradient_clip_norm", "choice:none,1", None),
        ("strategy", "choice:stash,ema-0.9", "ema-0.9"),
    ],
)
def test_every_form_is_drawn_and_written_as_it_was_read(name, text, value):
    ranges = space(**{name: text})
    config, _ = drawn(ranges, **{name: value})
    assert config == CONFIG.copy_with(**{name: value})
    assert type(getattr(config, name)) is type(value)
    assert Space.of(ranges.texts, CONFIG) == ranges


@pytest.mark.parametrize("kind", ["log:0.01:1", "int-log:1:64"])
def test_logarithmic_ranges_are_uniform_in_the_logarithm(kind):
    name = "lr" if kind.startswith("log") else "width"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [getattr(space(**{name: kind}).suggest(study.ask(), CONFIG), name) for _ in range(400)]
    low, high = min(values), max(values)
    assert sum(value < (low * high) ** 0.5 for value in values) == pytest.approx(200, abs=40)


def test_a_condition_decides_who_is_asked_whatever_the_order():
    ranges = space(momentum="uniform:0:0.99 if optimizer=sgd", optimizer="choice:sgd,adamw")
    assert drawn(ranges, optimizer="adamw")[1] == {"optimizer"}
    config, asked = drawn(ranges, optimizer="sgd", momentum=0.5)
    assert (asked, config.momentum) == ({"optimizer", "momentum"}, 0.5)
    fixed = space(momentum="uniform:0:0.99 if optimizer=sgd")
    assert drawn(fixed, momentum=0.5)[1] == {"momentum"}
    by_number = space(drain="choice:true,false if group_size=2", group_size="int:1:3")
    assert drawn(by_number, group_size=3)[1] == {"group_size"}
    assert drawn(by_number, group_size=2, drain=True)[0].drain


FORMS = "give log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH, int-log:LOW:HIGH or choice:A,B,.., with LOW < HIGH"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "space is {}; give at least one setting and its range"),
        ({"seed": "int:0:9"}, "space has seed, which can't be tuned; leave it out"),
        ({"lr": "log:0:1"}, FORMS),
        ({"lr": "log:1:0.1"}, FORMS),
        ({"lr": "uniform:0.1:0.1"}, FORMS),
        ({"lr": "uniform:0.1:inf"}, FORMS),
        ({"lr": "uniform:nan:1"}, FORMS),
        ({"lr": "log:1e-4"}, FORMS),
        ({"lr": "log:1e-4:1:2"}, FORMS),
        ({"lr": "log:١:٢"}, FORMS),
        ({"lr": "normal:0:1"}, FORMS),
        ({"lr": 0.1}, "space.lr is 0.1; give log:LOW:HIGH"),
        ({"group_size": "uniform:1:4"}, "group_size is an integer"),
        ({"group_size": "int:1:2.5"}, "group_size is an integer"),
        ({"group_size": "int-log:0:4"}, "group_size is an integer"),
        ({"optimizer": "log:1:2"}, "optimizer is a name: only choice:A,B,.. is possible"),
        ({"optimizer": "choice:sgd"}, "space.optimizer is 'choice:sgd'; give at least two different choices"),
        ({"batch_size": "choice:8,08"}, "give at least two different choices"),
        ({"optimizer": "choice:sgd,lion"}, "space: optimizer is 'lion'; give one of sgd, adamw"),
        ({"lr": "choice:0.1,fast"}, "space: lr is 'fast'; give a finite number > 0"),
        ({"momentum": "uniform:-0.1:0.9"}, "space: momentum is -0.1; give a finite number >= 0 and < 1"),
        ({"group_size": "int:0:4"}, "space: group_size is 0; give an integer >= 1"),
        ({"width": "choice:none,0"}, "space: width is 0; give an integer >= 1"),
        ({"lr": "log:1e-4:1 if optimiser=sgd"}, "space.lr has the condition 'optimiser=sgd'; write `if SETTING=VALUE`"),
        ({"lr": "log:1e-4:1 if sgd"}, "space.lr has the condition 'sgd'; write `if SETTING=VALUE`"),
        ({"lr": "log:1e-4:1 if optimizer=adamw"}, "space.lr holds only if optimizer=adamw, which no trial has"),
        (
            {"lr": "log:1e-4:1 if strategy=latest", "strategy": "choice:stash,ema-span"},
            "space.lr holds only if strategy=latest, which no trial has; tune strategy, too",
        ),
        ({"lr": "log:1e-4:1 if group_size=5", "group_size": "int:1:4"}, "which no trial has"),
        ({"lr": "log:1e-4:1 if momentum=0", "momentum": "uniform:0:0.9"}, "which no trial has"),
        ({"lr": "log:1e-4:1 if lr=0.1"}, "space.lr depends on lr, which has a condition itself"),
        (
            {
                "lr": "log:1e-4:1 if nesterov=true",
                "nesterov": "choice:true,false if optimizer=sgd",
                "optimizer": "choice:sgd,adamw",
            },
            "space.lr depends on nesterov, which has a condition itself; leave one of them out",
        ),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(texts, message):
    with pytest.raises(UserError) as refused:
        Space.of(texts, CONFIG)
    said = str(refused.value)
    assert "\n" not in said
    assert message in said


@pytest.mark.parametrize(
    ("name", "text", "best", "end", "moved"),
    [
        ("lr", "log:0.01:1", 0.1, None, "log:0.01:1"),
        ("lr", "log:0.01:1", 0.0126, None, "log:0.01:1"),
        ("lr", "log:0.01:1", 0.0125, "lower", "log:0.00125:0.125"),
        ("lr", "log:0.01:1", 0.99, "upper", "log:0.099:9.9"),
        ("lr", "uniform:0.01:1", 0.01, "lower", "uniform:0.005:0.505"),  # a rate of 0 is none
        ("momentum", "uniform:0:0.9", 0.0, None, "uniform:0:0.9"),  # nothing lies below
        ("momentum", "uniform:0.2:0.9", 0.2, "lower", "uniform:0:0.55"),
        ("momentum", "uniform:0:0.9", 0.89, "upper", "uniform:0.44:0.95"),  # momentum < 1
        ("momentum", "uniform:0.5:0.99", 0.99, "upper", "uniform:0.745:0.995"),
        ("width", "int:8:64", 8, "lower", "int:1:36"),
        ("width", "int-log:2:8", 2, "lower", "int-log:1:4"),
        ("width", "int-log:1:8", 1, None, "int-log:1:8"),
        ("probe_every", "int-log:1:8", 1, None, "int-log:1:8"),
        ("group_size", "int:1:4", 4, "upper", "int:2:6"),
        ("batch_size", "int:60000:65536", 65536, None, "int:60000:65536"),
        ("optimizer", "choice:sgd,adamw", "sgd", None, "choice:sgd,adamw"),
    ],
)
def test_a_best_value_near_an_end_is_flagged_and_the_range_moved(name, text, best, end, moved):
    ranges = space(**{name: text})
    assert ranges.at_an_end({name: best}) == ({} if end is None else {name: end})
    assert ranges.moved({name: best}).texts == {name: moved}
    assert Space.of(ranges.moved({name: best}).texts, CONFIG) == ranges.moved({name: best})


def test_a_setting_that_the_best_trial_did_not_have_stays():
    ranges = space(momentum="uniform:0:0.9 if optimizer=sgd", optimizer="choice:sgd,adamw")
    assert ranges.moved({"optimizer": "adamw"}) == ranges
    assert ranges.at_an_end({"optimizer": "adamw"}) == {}
    assert ranges.moved({"optimizer": "sgd", "momentum": 0.9}).texts["momentum"].endswith(" if optimizer=sgd")


def test_places_are_shares_of_the_range_and_lead_back_to_their_values():
    one, two, three = space(lr="log:0.01:1", momentum="uniform:0:0.8", optimizer="choice:sgd,adamw").ranges
    assert one.place(0.1) == pytest.approx(0.5)
    assert (two.place(0.0), two.place(0.2), two.place(0.8)) == pytest.approx((0, 0.25, 1))
    assert three.place("sgd") is None
    assert [of.place(of.at(share)) for of in (one, two) for share in (0.0, 0.3)] == pytest.approx([0, 0.3] * 2)


def test_first_trials_are_spread_over_the_space():
    space = Space.of({"lr": "log:0.01:1", "width": "int:8:16", "strategy": "choice:stash,latest"}, RunConfig())
    rows = [space.spread(number) for number in range(3)]
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.01**0.75, 0.01**0.25])
    assert [row["width"] for row in rows] == [11, 13, 9]
    assert [row["strategy"] for row in rows] == ["stash", "stash", "latest"]
    many = [space.spread(number)["lr"] for number in range(100)]
    for low in range(10):  # in every tenth of the range a tenth of the trials
        assert sum(0.01 * 10 ** (0.2 * low) <= lr < 0.01 * 10 ** (0.2 * low + 0.2) for lr in many) in range(8, 13)
