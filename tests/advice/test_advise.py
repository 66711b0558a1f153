"""Trainings side by side: what is told of them, of those that diverge, and of mistakes."""

import copy
import io
import json
import math
from statistics import mean

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import PipelinedModule, UserError, partition
from layerpipe2.advice import advise_module
from layerpipe2.cli import main
from layerpipe2.cli.advise import Bar
from layerpipe2.lab.advice import advise
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.strategies import StashFirst, make_strategy
from tests.advice import advised
from tests.engine.training import assert_bit_equal

SMALL = RunConfig(group_size=3, lr=1e-2)


@pytest.fixture(scope="module")
def calm():
    return advise(SMALL, steps=20)


def test_a_calm_training_is_told_at_quarters(calm):
    assert [row.updates for row in calm.rows] == [5, 10, 15, 20]
    assert (calm.updates, calm.diverged) == (20, {})
    assert all(list(row.losses) == ["stash", "latest", "ema-lsq", "pair"] for row in calm.rows)
    assert calm.rows[-1].losses["pair"] == pytest.approx(calm.rows[-1].losses["stash"], rel=0.1)
    assert [(stage.stage, stage.delay) for stage in calm.stages] == [(0, 4), (1, 2)]
    first, second = calm.stages
    assert [quality.updates for quality in first.qualities["latest"]] == [10, 15, 20]  # full after 8 updates
    assert [quality.updates for quality in second.qualities["latest"]] == [5, 10, 15, 20]
    assert all(quality.recall_error == pytest.approx(1) for quality in first.qualities["latest"])
    assert all(quality.gradient_cosine < 1 for quality in first.qualities["latest"])
    assert second.qualities["pair"][-1].recall_error < 1e-3
    said = " ".join(calm.sentences)
    assert f"After 20 updates at these settings: last losses stash {calm.rows[-1].losses['stash']:.4g}, latest " in said
    assert "nothing about the accuracy at the end" in said
    assert "hardly better than the learning rate alone" in said
    assert json.loads(json.dumps(calm.to_dict(), allow_nan=False))["sentences"] == list(calm.sentences)


def test_memory_is_that_of_the_copies_of_each_rank(calm):
    for stage in calm.stages:
        one = stage.parameters * 4 / 1e6
        assert stage.megabytes == pytest.approx(
            {"stash": stage.delay * one, "latest": 0, "ema-lsq": one, "pair": one}
        )  # momentum 0.9: the optimizer has the newest update
        assert stage.saved("ema-lsq") == pytest.approx((stage.delay - 1) * one)
    plain = advise(SMALL.copy_with(momentum=0.0), steps=4, strategies=["pair"])
    assert plain.stages[0].megabytes["pair"] == pytest.approx(2 * plain.stages[0].parameters * 4 / 1e6)


def test_the_own_strategy_is_added_and_the_same_settings_give_the_same_advice(calm):
    other = advise(SMALL.copy_with(strategy="ema-0.95"), steps=20, strategies=["pair"])
    assert list(other.rows[0].losses) == ["stash", "pair", "ema-0.95"]
    for mine, theirs in zip(other.rows, calm.rows, strict=True):
        assert [mine.losses[n] for n in ("stash", "pair")] == [theirs.losses[n] for n in ("stash", "pair")]
    assert other.stages[0].qualities["pair"] == calm.stages[0].qualities["pair"]


def test_epochs_with_exact_weights_come_first_in_all_trainings():
    found = advise(SMALL.copy_with(strategy="ema-span", stash_epochs=1.0), steps=32, strategies=["latest"])
    assert list(found.rows[0].losses) == ["stash", "latest", "ema-span"]
    assert [len(set(row.losses.values())) for row in found.rows] == [1, 1, 3, 3]  # 17 updates per epoch


def test_a_training_that_ends_before_is_told_until_then():
    assert [row.updates for row in advise(SMALL.copy_with(max_steps=3), steps=20).rows] == [1, 2, 3]
    assert advise(SMALL.copy_with(epochs=1), steps=20).updates == 17


def test_what_diverges_alone_is_told_with_its_update():
    found = advise(RunConfig(lr=0.1, momentum=0.0), steps=60, strategies=["latest", "pair"])
    update = found.diverged["latest"]
    assert list(found.diverged) == ["latest"]
    assert 10 < update < 60
    assert [row.losses["latest"] is None for row in found.rows] == [update <= row.updates for row in found.rows]
    assert f"latest diverged in update {update}; last losses stash " in found.sentences[0]


def test_what_diverges_with_exact_weights_too_needs_a_smaller_rate(capsys):
    arguments = ["advise", "--group-size", "2", "--lr", "30", "--steps", "50"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1].startswith("Training diverges with exact weights too, in update ")
    assert text.splitlines()[-1].endswith(": lower the learning rate.")
    assert "diverged" in text
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["diverged"]["stash"] > 1


def linear(lr=0.01, **options):
    torch.manual_seed(0)
    stages = partition([nn.Linear(4, 4, bias=False) for _ in range(4)], 1)
    how = {"optimizer": lambda p: torch.optim.SGD(p, lr), "loss": F.mse_loss, "strategy": "latest"} | options
    return PipelinedModule(stages, "layerpipe2", **how)


def loader(size=64):
    x = torch.randn(size, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x @ torch.diag(torch.arange(1.0, 5))), 16)


@advised
def test_a_module_of_your_own_is_left_alone_and_told_of_over_the_epochs_of_its_loader():
    model, told = linear(), []
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = advise_module(model, loader(), steps=30, progress=lambda *now: told.append(now))
    assert_bit_equal(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.updates == 30
    assert [now[:2] for now in told] == [(done, 30) for done in range(1, 31)]
    assert [math.isnan(now[2]) for now in told] == [True, True] + 28 * [False]
    assert told[-1][2] == 0
    assert list(found.rows[0].losses) == ["stash", "latest", "ema-lsq", "pair"]
    only = advise_module(linear(strategy="stash"), loader(), steps=1, strategies=["latest"])
    assert only.rows[0].losses["stash"] == only.rows[0].losses["latest"]  # the first forward pass
    assert only.stages[0].qualities == {"latest": ()}


@advised
def test_a_list_of_mini_batches_is_a_loader_and_one_that_can_be_read_once_is_read_to_its_end():
    batches = list(loader())
    found = advise_module(linear(), batches, steps=4)
    assert advise_module(linear(), iter(batches), steps=200).updates == len(batches)
    assert found == advise_module(linear(), loader(), steps=4)


@advised
def test_parts_of_mini_batches_are_those_that_the_module_names():
    pairs = advise_module(linear(), loader(), steps=4)
    batches = [{"x": x, "y": y, "weight": torch.ones(len(x))} for x, y in loader()]
    assert advise_module(linear(inputs="x", target="y"), batches, steps=4) == pairs
    weighted = lambda y, targets: ((y - targets[0]).square().mean(1) * targets[1]).mean()  # noqa: E731
    found = advise_module(linear(inputs="x", target=("y", "weight"), loss=weighted), batches, steps=4)
    assert found.rows[-1].losses == pytest.approx(pairs.rows[-1].losses)


@advised
def test_a_row_is_the_mean_loss_since_the_one_before():
    each = advise_module(linear(), loader(), steps=4, strategies=[])
    whole = advise_module(linear(), loader(), steps=16, strategies=[])
    assert whole.rows[0].losses["stash"] == pytest.approx(mean(row.losses["stash"] for row in each.rows))


@advised
def test_a_warm_up_of_ones_own_is_that_of_all():
    strategy = StashFirst(then=make_strategy("ema-span"), updates=10)
    found = advise_module(linear(strategy=strategy), loader(), steps=20, strategies=["latest"])
    assert [len(set(row.losses.values())) for row in found.rows] == [1, 1, 1, 3]


MISTAKES = {
    "steps is 0": lambda: advise(SMALL, steps=0),
    "strategy is 'sequential'": lambda: advise(SMALL.copy_with(strategy="sequential")),
    "no stage has a delay .9 stages, delay law 'none'": lambda: advise(RunConfig(convention="none")),
    "strategy 'stash' has exact weights": lambda: advise(SMALL, strategies=["stash"]),
    "unknown strategy 'ema-sapn'": lambda: advise(SMALL, strategies=["ema-sapn"]),
    "module is a Linear": lambda: advise_module(nn.Linear(1, 1), []),
    "before its first update; give a loader with mini-batches": lambda: advise_module(linear(), []),
    "an update after every mini-batch, but accumulate=2": lambda: advise_module(linear(accumulate=2), loader()),
}


@advised
@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line(message):
    with pytest.raises(UserError, match=message) as error:
        MISTAKES[message]()
    assert "\n" not in str(error.value)


def test_layers_that_cannot_be_copied_are_named():
    layers = [nn.Linear(4, 4) for _ in range(2)]
    layers[0].kept = torch.ones(1, requires_grad=True) * 2
    module = PipelinedModule(layers, "layerpipe2", "stash", optimizer=lambda p: torch.optim.SGD(p, 0.1))
    with pytest.raises(UserError, match="the network can't be copied"):
        advise_module(module, [])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(bar):
    for done in range(1, 11):
        bar(done, 10, math.nan if done < 3 else 60.0 * (10 - done))
    bar.close()


def test_the_time_is_told_after_a_few_updates_as_a_line_or_a_bar(capsys, monkeypatch):
    told(Bar())
    assert capsys.readouterr().err == "10 updates of each training, 4 min left\n"
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    told(Bar())
    drawn = screen.getvalue().split("\r")
    assert drawn[1].rstrip() == f"[{18 * '#'}{12 * '.'}] update 6/10, 4 min left"
    assert [len(line) for line in drawn[1:-1]] == 6 * [80]
    assert drawn[-2].strip() == drawn[-1] == ""
