"""What the advice says: of trainings that need a history, that don't, that diverge, and of mistakes."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import PipelinedModule, UserError, partition
from layerpipe2.advice import RULE, Rule, advise_module, predictors, result, strategy_of
from layerpipe2.advice.measurement import compare
from layerpipe2.cli import main
from layerpipe2.lab.advice import advise
from layerpipe2.lab.runs.config import RunConfig
from tests.advice import advised

SMALL = RunConfig(group_size=3, lr=1e-3)


@pytest.fixture(scope="module")
def calm():
    return advise(SMALL, steps=10)


def test_a_small_rate_needs_no_history(calm):
    assert calm.verdict == "drop"
    assert calm.sentence.startswith("Drop the weight history: ")
    assert calm.value == predictors(calm)[RULE.quantity]
    assert RULE.words in calm.sentence
    assert calm.total.strategies.keys() > {"latest", "ema-0.9", "ema-span", "pair"}
    assert "stash" not in calm.total.strategies
    assert (calm.updates, calm.diverged) == (10, None)


def test_json_has_it_all(calm):
    content = json.loads(json.dumps(calm.to_dict(), allow_nan=False))
    assert content["predictors"] == predictors(calm)
    assert {"drift", "margin", "shared_margin", "alignment.ema-span.worst", "error.pair"} <= content[
        "predictors"
    ].keys()
    assert predictors(calm)["margin"] == calm.stability.step / calm.stability.bound
    assert (content["verdict"], content["sentence"]) == (calm.verdict, calm.sentence)


def test_the_same_settings_give_the_same_advice_and_the_strategy_only_adds_one(calm):
    other = advise(SMALL.copy_with(strategy="ema-0.95"), steps=10, strategies=["ema-span"])
    assert list(other.total.strategies) == ["latest", "ema-span", "ema-0.95"]
    assert other.total.strategies["latest"] == calm.total.strategies["latest"]


def test_on_the_other_side_of_the_threshold_a_history_is_to_be_kept(calm, monkeypatch):
    def with_alignment(latest, average):
        quality = calm.total.strategies["latest"]
        both = {"latest": replace(quality, alignment=latest), "ema-span": replace(quality, alignment=average)}
        return replace(calm, total=replace(calm.total, strategies=both))

    rule = Rule("alignment.latest", "the cosine", 0.95, True, 7, "")
    monkeypatch.setattr(result, "RULE", rule)
    keep = with_alignment(0.94, 0.98)
    assert (keep.verdict, "ema-span comes closest (0.980)" in keep.sentence) == ("keep", True)
    assert "the cosine is 0.94 (rule of thumb, fitted on 7 cells: from 0.95 on it can go)" in keep.sentence
    assert "the safe one is stash" in with_alignment(0.1, None).sentence
    assert with_alignment(0.95, 0.1).verdict == "drop"
    unknown = with_alignment(None, None)
    assert (unknown.verdict, unknown.sentence.startswith("No advice: ")) == ("unknown", True)
    assert rule.quantity not in predictors(unknown)
    monkeypatch.setattr(result, "RULE", replace(rule, drop_above=False))
    assert [with_alignment(value, 0.9).verdict for value in (0.94, 0.95)] == ["drop", "keep"]
    assert "fitted on 7 cells: below 0.95 it can go)" in with_alignment(0.94, 0.9).sentence


def test_what_the_rule_is_about_is_always_measured(calm):
    named = ("alignment.ema-0.9.worst", "error.pair", "drift.worst", "margin")
    assert [strategy_of(name) for name in named] == ["ema-0.9", "pair", "latest", "latest"]
    other = advise(SMALL, steps=10, strategies=["pair"])
    assert set(other.total.strategies) == {"latest", "pair", strategy_of(RULE.quantity)}
    assert other.sentence.partition(";")[0] == calm.sentence.partition(";")[0]


def test_gradients_that_overflow_point_nowhere():
    exact = torch.tensor([3.0, 4.0])
    found = compare(torch.tensor([torch.inf, 1.0]), exact)
    assert float(found["alignment"]) == 0
    assert compare(exact, torch.zeros(2))["alignment"].isnan()
    assert compare(2 * exact, exact) == {"alignment": 1, "norm_ratio": 2, "gradient_error": 1}


def test_a_diverging_run_is_told_in_one_line(capsys):
    assert main(["advise", "--group-size", "2", "--lr", "30", "--steps", "5"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("Training diverges with exact weights too (epoch 0, mini-batch ")
    assert line.endswith("lower the learning rate, 30 now, for example to 10.")
    assert main(["advise", "--group-size", "2", "--lr", "30", "--steps", "5", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["verdict"], content["stability"]) == ("diverged", None)


def linear(lr, **options):
    torch.manual_seed(0)
    stages = partition([nn.Linear(4, 4, bias=False) for _ in range(4)], 1)
    how = {"optimizer": lambda p: torch.optim.SGD(p, lr), "loss": F.mse_loss} | options
    return PipelinedModule(stages, "layerpipe2", "latest", **how)


def loader(size=64):
    x = torch.randn(size, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x @ torch.diag(torch.arange(1.0, 5))), 16)


@advised
def test_a_loss_that_rises_is_diverging_before_it_overflows():
    assert advise_module(linear(0.01), loader(), steps=5).verdict == "drop"
    uphill = {"optimizer": lambda p: torch.optim.SGD(p, 0.3, maximize=True)}
    rising = advise_module(linear(0.1, **uphill), loader(), steps=5)
    assert "its loss has risen from" in rising.sentence
    assert rising.verdict == "diverged"
    assert "lower the learning rate, 0.3 now" in rising.sentence


MISTAKES = {
    "steps is 0": lambda: advise(SMALL, steps=0),
    "strategy is 'sequential'": lambda: advise(SMALL.copy_with(strategy="sequential")),
    "no stage has a delay .9 stages, delay law 'none'": lambda: advise(RunConfig(convention="none")),
    "strategy 'stash' has exact weights": lambda: advise(SMALL, strategies=["stash"]),
    "unknown strategy 'ema-sapn'": lambda: advise(SMALL, strategies=["ema-sapn"]),
    "ended after 8 updates, and only after 8 .twice": lambda: advise(SMALL.copy_with(max_steps=8)),
    "and only after 17 ": lambda: advise(SMALL.copy_with(max_steps=8, warmup_epochs=1.0)),
    "drain empties the pipeline after 17 updates": lambda: advise(RunConfig(drain=True)),
    "module is a Linear": lambda: advise_module(nn.Linear(1, 1), []),
    "warmup is -1": lambda: advise_module(linear(0.1), [], warmup=-1),
    "drain empties the pipeline after 4 updates": lambda: advise_module(linear(0.1, drain=True), loader()),
}


@advised
@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line(message):
    with pytest.raises(UserError, match=message) as error:
        MISTAKES[message]()
    assert "\n" not in str(error.value)


def test_layers_that_cannot_be_copied_or_recalled_are_named():
    layers = [nn.Linear(4, 4) for _ in range(2)]
    layers[0].kept = torch.ones(1, requires_grad=True) * 2
    module = PipelinedModule(layers, "layerpipe2", "stash", optimizer=lambda p: torch.optim.SGD(p, 0.1))
    with pytest.raises(UserError, match="the network can't be copied"):
        advise_module(module, [])
