"""Settings of a run: ranges, types, names."""

import json
import math

import pytest

from layerpipe2.errors import UserError
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.validation import checked


@pytest.mark.parametrize("settings", [{}, {"convention": "custom", "delays": (4, 2, 0)}, {"warmup_epochs": 1}])
def test_settings_survive_a_round_trip_as_they_were_written(settings):
    config = RunConfig(**settings)
    plain = json.loads(json.dumps(config.to_dict()))
    assert RunConfig(**plain) == config
    assert repr(plain) == repr(config.to_dict())  # 1 stays 1, not 1.0
    assert all(plain[name] == (list(v) if isinstance(v, tuple) else v) for name, v in settings.items())


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("lr", math.nan, "a finite number > 0"),
        ("lr", math.inf, "a finite number > 0"),
        ("lr", 0.0, "a finite number > 0"),
        ("lr", "fast", "a finite number > 0"),
        ("group_size", 0, "an integer >= 1"),
        ("group_size", 1.0, "an integer >= 1"),
        ("group_size", True, "an integer >= 1"),
        ("momentum", 1.0, "a finite number >= 0 and < 1"),
        ("validation_fraction", 0.0, "> 0 and < 1"),
        ("batch_size", -3, "an integer >= 1"),
        ("optimizer", "adam", "one of sgd, adamw"),
        ("convention", "gpipe", "one of layerpipe2, pipedream, none, custom"),
        ("gradient_clip_norm", 0, "> 0, or none"),
        ("delays", (2, -1), "a list of integers >= 0"),
        ("delays", (), "a list of integers >= 0"),
        ("augment", 1, "true or false"),
        ("seed", 2**32, "<= 4294967295"),
        ("dataset", None, "a text"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value, allowed):
    with pytest.raises(UserError) as caught:
        RunConfig(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} is {value!r}; give")
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convention": "custom"}, "delays and convention 'custom' go together"),
        ({"delays": (2, 0)}, "delays and convention 'custom' go together"),
        ({"stash_epochs": 1, "drain": True}, "stash_epochs counts from the last fill of the pipeline"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov is a form of sgd's momentum; the optimizer is adamw"),
        ({"nesterov": True, "momentum": 0}, "nesterov is a form of momentum, and momentum is 0"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "warmup_epochs is 3, but there are 2 epochs"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        RunConfig(**settings)


def test_an_unknown_key_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"run\.json: unknown key 'grup_size'; did you mean 'group_size'\?"):
        checked(RunConfig, {"grup_size": 2}, "run.json")
    with pytest.raises(UserError, match="unknown key 'zzz'; known: dataset, "):
        RunConfig(zzz=2)


def test_a_bad_value_from_a_file_names_the_file():
    with pytest.raises(UserError, match=r"run\.json: epochs is 0; give an integer >= 1"):
        checked(RunConfig, {"epochs": 0}, "run.json")


def test_every_setting_has_a_line_of_help():
    fields = RunConfig.model_json_schema()["properties"]
    assert all(field["description"] and field["section"] for field in fields.values())
