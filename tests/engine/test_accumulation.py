"""Several mini-batches per update: what of an update under way is saved, and what does not fit.

With the latest weights in the backward pass it is PACI: accumulation at every stage, nothing stashed. The numbers of
whole trainings are held against the reference by tests/programs.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from experiments.field.compensation import DelayCompensation
from experiments.field.prediction import SpecTrain
from layerpipe2 import UserError, make_strategy
from layerpipe2.strategies import ErrorFeedback, LastUpdate, StashFirst, chain
from tests.engine.training import data, engine, fit, module, optimizer_of, trainer


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("done", [1, 8])
@pytest.mark.parametrize("strategy", ["stash", "ema-span", LastUpdate()])
def test_what_is_saved_in_the_middle_of_an_update_holds_its_gradients(strategy, done, dtype):
    def made():
        pipeline = engine(nn.Linear(8, 8), strategy, accumulate=3, compute_dtype=dtype)
        return pipeline, optimizer_of(pipeline)

    def step(pipeline, optimizer, x):
        return pipeline.train_step(x, torch.tensor([1, 2, 3, 4]), F.cross_entropy, optimizer)[0]

    whole, resumed, batches = made(), made(), torch.randn(10, 4, 8)
    for x in batches[:done]:
        step(*whole, x)
    for mine, theirs in zip(resumed[0].stages, whole[0].stages, strict=True):
        mine.load_state_dict(theirs.state_dict())
    resumed[0].load_state_dict(copy.deepcopy(whole[0].state_dict()))
    for x in batches[done:]:
        assert torch.equal(step(*resumed, x), step(*whole, x))


class Short(IterableDataset):
    """Five mini-batches, though eight were asked for."""

    def __iter__(self):
        return iter([*data(shuffle=False)][:5])


def fit_short():
    loader = DataLoader(Short(), batch_size=None)
    trainer(1, limit_train_batches=8).fit(module("latest", accumulate=2), loader, data(shuffle=False))


def with_strategy(strategy, a):
    """The delays of the stages are 6, 4, 2, 0."""
    return lambda: fit(module(strategy, accumulate=a), 1)


RAW, DIVIDE = ".*gradient of each mini-batch, but accumulate=2", "accumulate=. .*delay.* divide"
REFUSED = {
    "a raw average": (with_strategy("ema-span-raw", 2), f"'ema-span-raw'{RAW}"),
    "a method on gradients": (with_strategy(DelayCompensation(0.2), 2), f"DelayCompensation{RAW}"),
    "a chain with one": (with_strategy(chain(SpecTrain(), DelayCompensation(0.2)), 2), f"DelayCompensation{RAW}"),
    "pair": (with_strategy("pair", 4), f"'pair'.*{DIVIDE}"),
    "pair, a number": (with_strategy("pair-0.9", 3), f"'pair-0.9'.*{DIVIDE}"),
    "window": (with_strategy("update-window", 4), f"'update-window'.*{DIVIDE}"),
    "a chain with a pair": (with_strategy(chain(ErrorFeedback(), make_strategy("pair")), 4), DIVIDE),
    "a pair after a warm-up": (with_strategy(StashFirst(then=make_strategy("pair"), updates=2), 4), DIVIDE),
    "no number": (lambda: engine(nn.Linear(8, 8), accumulate=0), "accumulate is 0; give an integer from 1 to 1000"),
    "six mini-batches": (lambda: fit(module("latest", accumulate=4), 1), "6 .*mini-batches.* accumulate=4"),
    "five of six": (
        lambda: fit(module("latest", accumulate=3), 1, limit_train_batches=5),
        "5 .*mini-batches.* accumulate=3",
    ),
    "fewer than there should be": (fit_short, "training stopped 1 mini-batches into an update of accumulate=2"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_does_not_fit_it_is_refused_in_one_line(row):
    work, message = REFUSED[row]
    with pytest.raises(UserError, match=message) as caught:
        work()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strategy", ["pair", "update-window"])
def test_a_number_that_divides_the_delays_is_not(strategy):
    fit(module(strategy, accumulate=2), 1)


def test_the_trainers_own_accumulation_is_refused():
    with pytest.raises((UserError, MisconfigurationException), match=r"(?i)accumulat"):
        fit(module("latest", accumulate=2), 1, accumulate_grad_batches=2)
