"""Several mini-batches per update: equal to plain Lightning without delays; with delays: tests/programs.

With the latest weights in the backward pass it is PACI: accumulation at every stage, nothing stashed.
"""

import copy
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import StashFirst, chain
from layerpipe2.strategies.latest import Latest
from tests.engine.test_module import Plain
from tests.engine.training import (
    OPTIMIZERS,
    assert_bit_equal,
    checkpoint,
    engine,
    fit,
    module,
    network,
    optimizer_of,
    resume,
    resumes,
)
from tests.strategies.test_three_places import DelayCompensation, ErrorFeedback, Prediction
from tests.test_reference import problem


@dataclass(frozen=True)
class Noting(Latest):
    """Latest weights; notes the lags."""

    lags: list[int] = field(default_factory=list)

    def backward(self, state, latest, used):
        self.lags.append(int(state["lag"]))
        return latest


@pytest.mark.parametrize("a", [1, 3, 4, 6])
def test_paci_misses_few_updates(a):
    """With a >= D one at most, and none at an accumulation's end."""
    (stages, batches), noting, D = problem("mlp", 2), Noting(), 4
    pipeline = PipelineEngine(stages, Delays.custom([D, 0, 0]), noting, accumulate=a)
    optimizer = optimizer_of(pipeline)
    for t, (x, y) in enumerate(batches):
        pipeline.train_step(x, y, F.cross_entropy, optimizer)
        assert int(pipeline.step_count) == (t + 1) // a
    assert noting.lags == [t // a - max(0, t - D) // a for t in range(len(batches))]
    assert max(noting.lags) == -(-D // a)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", ["stash", "ema-window", "latest"])
def test_without_delay_bit_equal_to_plain_lightning(strategy, optimizer):
    mine = fit(module(strategy, Delays.none(4), optimizer=optimizer, accumulate=3), 2)
    torch.manual_seed(3)
    plain = fit(Plain(network(), OPTIMIZERS[optimizer]), 2, accumulate_grad_batches=3)
    assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), plain.state_dict().values(), strict=True))
    assert mine.trainer.global_step == plain.trainer.global_step == int(mine.engine.step_count) == 4
    assert mine.hparams.accumulate == 3


def test_a_scheduler_steps_per_update():
    model = fit(module("latest", scheduler_interval="step", accumulate=3), 2)
    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(0.05 * 0.5**4)


@resumes
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization and every_n_train_steps")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("saved", [{}, {"every_n_train_steps": 2}], ids=["epoch's end", "every two updates"])
@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("strategy", ["latest", "ema-span", "stash"])
def test_a_resumed_run_is_the_uninterrupted_one(strategy, drain, saved, tmp_path):
    """Delays 6, 4, 2, 0; Lightning takes two updates for the middle of an epoch, which has six mini-batches."""
    make = partial(module, strategy, drain=drain, accumulate=3, stage_seed=3)
    whole = fit(make(), 4)
    resumed = resume(checkpoint(tmp_path, make(), 2, **saved), make(), 4, **saved)
    assert_bit_equal(resumed.state_dict(), whole.state_dict())
    for mine, theirs in zip(resumed.engine.delayed.values(), whole.engine.delayed.values(), strict=True):
        assert_bit_equal(mine.state_dict()["strategy"], theirs.state_dict()["strategy"])
    assert int(resumed.engine.step_count) == (2 if drain else 8)


def assert_refused(words, work):
    with pytest.raises(UserError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in ("accumulate", *words) if word not in message] == []


@pytest.mark.parametrize(
    ("strategy", "a", "words"),
    [
        (make_strategy("ema-span-raw"), 2, ["'ema-span-raw'", "gradient"]),
        (DelayCompensation(), 2, ["DelayCompensation", "gradient"]),
        (chain(Prediction(), DelayCompensation()), 2, ["DelayCompensation", "gradient"]),
        (make_strategy("pair"), 4, ["'pair'", "delay", "divide"]),
        (make_strategy("pair-0.9"), 3, ["'pair-0.9'", "delay", "divide"]),
        (make_strategy("update-window"), 4, ["'update-window'", "delay", "divide"]),
        (chain(ErrorFeedback(), make_strategy("pair")), 4, ["delay", "divide"]),
        (StashFirst(then=make_strategy("pair"), updates=2), 4, ["delay", "divide"]),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_strategies_that_accumulation_does_not_fit(strategy, a, words):
    """The delays are 6, 4, 2, 0."""
    stages, _ = problem("cnn", 1)
    assert_refused(words, lambda: PipelineEngine(stages, Delays.layerpipe2(4), strategy, accumulate=a))
    assert PipelineEngine(stages, Delays.layerpipe2(4), strategy, accumulate=1)


@pytest.mark.parametrize("a", [0, -1, 1001, 2.0, True, "2", None])
def test_numbers_of_mini_batches_that_are_none(a):
    stages, _ = problem("cnn", 1)
    assert_refused(["integer"], lambda: PipelineEngine(stages, Delays.none(4), make_strategy("stash"), accumulate=a))
    assert_refused(["integer"], lambda: module("stash", accumulate=a))


@pytest.mark.parametrize(("a", "options", "batches"), [(4, {}, "6"), (3, {"limit_train_batches": 5}, "5")])
def test_an_epoch_ends_with_an_update(a, options, batches):
    assert_refused([batches, str(a), "mini-batches"], lambda: fit(module("latest", accumulate=a), 1, **options))


def test_the_trainers_own_accumulation_is_refused():
    with pytest.raises((UserError, MisconfigurationException), match=r"(?i)accumulat"):
        fit(module("latest", accumulate=2), 1, accumulate_grad_batches=2)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("done", [1, 4, 8])
@pytest.mark.parametrize("strategy", ["stash", "ema-span", "prediction"])
def test_what_is_saved_in_the_middle_of_an_update_holds_its_gradients(strategy, done, dtype, monkeypatch):
    monkeypatch.setattr("tests.engine.training.make_strategy", _made)
    whole = engine(torch.nn.Linear(8, 8), strategy, accumulate=3, compute_dtype=dtype)
    optimizer = optimizer_of(whole)
    batches = torch.randn(10, 4, 8)
    for x in batches[:done]:
        step(whole, optimizer, x)
    resumed = engine(torch.nn.Linear(8, 8), strategy, accumulate=3, compute_dtype=dtype)
    for mine, theirs in zip(resumed.stages, whole.stages, strict=True):
        mine.load_state_dict(theirs.state_dict())
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    own = optimizer_of(resumed)
    for x in batches[done:]:
        assert torch.equal(step(resumed, own, x), step(whole, optimizer, x))


def _made(name):
    return Prediction() if name == "prediction" else make_strategy(name)


def step(pipeline, optimizer, x):
    return pipeline.train_step(x, torch.tensor([1, 2, 3, 4]), F.cross_entropy, optimizer)[0]
