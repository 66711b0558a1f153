"""Checked models, the settings of a run among them: every mistake is one line with its place and the remedy."""

import json
import math
import pickle
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import Checked, Positive, Real, Several, checked, one_of


class Rates(Checked):
    rates: Several[Positive]
    kind: Literal["fast", "slow"] = "slow"


class Sweep(Checked):
    seeds: Several[Annotated[int, Field(ge=0)]]
    optimizers: dict[str, Rates] = Field({})
    more: Rates | None = None
    jobs: list[Rates] = Field([])
    network: Annotated[str, *one_of(["mlp", "vgg"])] = "mlp"
    share: Real = Field(0.5, ge=0, lt=1)

    @model_validator(mode="after")
    def _fit(self):
        if self.network == "vgg" and self.share:
            raise UserError("vgg has no share; leave it out")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "'seeds' is missing; give a list of distinct integers >= 0"),
        ({"seed": [1]}, "unknown key 'seed'; did you mean 'seeds'?"),
        ({"seeds": [1], "zzz": 1}, "unknown key 'zzz'; known: seeds, optimizers, more, jobs, network, share"),
        ({"seeds": [1, 1]}, "seeds is [1, 1]; give a list of distinct integers >= 0"),
        ({"seeds": [1, -1]}, "seeds is [1, -1]; give a list of distinct integers >= 0"),
        ({"seeds": []}, "seeds is []; give a list of distinct integers >= 0"),
        ({"seeds": [True]}, "seeds is [True]; give a list of distinct integers >= 0"),
        ({"seeds": "12"}, "seeds is '12'; give a list of distinct integers >= 0"),
        ({"seeds": [1], "network": "mpl"}, "network is 'mpl'; give one of mlp, vgg; did you mean 'mlp'?"),
        ({"seeds": [1], "share": 1}, "share is 1; give a finite number >= 0 and < 1"),
        ({"seeds": [1], "network": "vgg"}, "vgg has no share; leave it out"),
        ({"seeds": [1], "optimizers": 3}, "optimizers is 3; give a mapping of keys"),
        ({"seeds": [1], "optimizers": {"sgd": {}}}, "optimizers.sgd: 'rates' is missing; give a list of distinct fin"),
        (
            {"seeds": [1], "optimizers": {"sgd": {"rates": [0]}}},
            "optimizers.sgd.rates is [0]; give a list of distinct finite numbers > 0",
        ),
        (
            {"seeds": [1], "optimizers": {"sgd": {"rates": [1], "kinds": 1}}},
            "optimizers.sgd: unknown key 'kinds'; did you mean 'kind'?",
        ),
        ({"seeds": [1], "more": {"rates": [1], "kind": "fats"}}, "more.kind is 'fats'; give one of fast, slow; did"),
        ({"seeds": [1], "more": {"kinds": 1}}, "more: unknown key 'kinds'; did you mean 'kind'?"),
        ({"seeds": [1], "optimizers": {5: {}}}, "optimizers"),
        ({"seeds": [1], "x" * 10**5: 1}, f"unknown key '{'x' * 116}...; known: seeds"),
        ({"seeds": 10**5000}, "seeds is a value of type int that is too long to be shown; give a list of distinct"),
        ({"seeds": [1], "more": 1}, "more is 1; give a mapping of keys, or none"),
        ({"seeds": [1], "jobs": [{"rates": 1}]}, "jobs.0.rates is 1; give a list of distinct finite numbers > 0"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(values, message):
    with pytest.raises(UserError) as caught:
        checked(Sweep, values, "sweep.yaml")
    assert str(caught.value).startswith(f"sweep.yaml: {message}")
    with pytest.raises(UserError) as caught:
        Sweep(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[1], {5: 6}, None, "seeds"])
def test_what_is_no_mapping_of_texts_is_refused(values):
    with pytest.raises(UserError) as caught:
        checked(Sweep, values, "sweep.yaml")
    assert str(caught.value) == f"sweep.yaml is {values!r}; give a mapping of keys"


def test_a_model_is_a_value():
    sweep = Sweep(seeds=[2, 1], optimizers={"sgd": Rates(rates=[1, 0.5])}, share=0)
    assert (sweep.seeds, sweep.optimizers["sgd"].rates) == ((2, 1), (1, 0.5))
    assert isinstance(sweep.share, int)  # as it was written
    assert pickle.loads(pickle.dumps(sweep)) == sweep
    assert sweep.copy_with(seeds=[3]) == Sweep(seeds=[3], optimizers=sweep.optimizers, share=0)
    with pytest.raises(UserError, match="share is 7"):
        sweep.copy_with(share=7)
    with pytest.raises(ValueError, match="frozen"):
        sweep.share = 0.1


@pytest.mark.parametrize("settings", [{}, {"convention": "custom", "delays": (4, 2, 0)}, {"warmup_epochs": 1}])
def test_settings_survive_a_round_trip_as_they_were_written(settings):
    config = RunConfig(**settings)
    plain = json.loads(json.dumps(config.to_dict()))
    assert RunConfig(**plain) == config
    assert repr(plain) == repr(config.to_dict())  # 1 stays 1, not 1.0
    assert all(plain[name] == (list(v) if isinstance(v, tuple) else v) for name, v in settings.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": math.nan}, "lr is nan; give a finite number > 0"),
        ({"lr": 0.0}, "lr is 0.0; give a finite number > 0"),
        ({"group_size": 1.0}, "group_size is 1.0; give an integer >= 1"),
        ({"group_size": True}, "group_size is True; give an integer >= 1"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0; give a finite number > 0 and < 1"),
        ({"batch_size": -3}, "batch_size is -3; give an integer >= 1"),
        ({"convention": "gpipe"}, "convention is 'gpipe'; give one of layerpipe2, pipedream, none, custom"),
        ({"gradient_clip_norm": 0}, "gradient_clip_norm is 0; give a finite number > 0, or none"),
        ({"delays": ()}, "delays is (); give a list of integers >= 0"),
        ({"augment": 1}, "augment is 1; give true or false"),
        ({"seed": 2**32}, "seed is 4294967296; give an integer >= 0 and <= 4294967295"),
        ({"dataset": None}, "dataset is None; give a text"),
        ({"convention": "custom"}, "delays and convention 'custom' go together"),
        ({"delays": (2, 0)}, "delays and convention 'custom' go together"),
        ({"stash_epochs": 1, "drain": True}, "stash_epochs counts from the last fill of the pipeline"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov is a form of sgd's momentum; the optimizer is adamw"),
        ({"nesterov": True, "momentum": 0}, "nesterov is a form of momentum, and momentum is 0"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "warmup_epochs is 3, but there are 2 epochs"),
    ],
)
def test_settings_out_of_range_or_that_do_not_go_together_are_refused_by_name(settings, message):
    with pytest.raises(UserError) as caught:
        RunConfig(**settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
