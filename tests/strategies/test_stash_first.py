"""A warm-up of the reconstruction: exact weights first, then another method."""

import copy

import pytest
import torch

from layerpipe2 import UserError, make_strategy
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.train import train_run
from layerpipe2.strategies import StashFirst
from tests.strategies.recalling import delayed, engine, line, losses, recall_along

OTHERS = ["latest", "ema-window-raw", "pair"]
RUN = {"width": 8, "group_size": 3, "epochs": 3, "batch_size": 128, "momentum": 0.5}


def weights_along(history, steps: int) -> list[torch.Tensor]:
    made, optimizer = engine(history)
    path = []
    for t in range(steps):
        losses(made, optimizer, range(t, t + 1))
        path.append(torch.cat([p.detach().flatten() for stage in made.stages for p in stage.parameters()]))
    return path


@pytest.mark.parametrize("name", OTHERS)
def test_the_first_updates_are_those_of_stash_and_the_next_are_not(name):
    warmed = weights_along(StashFirst(then=make_strategy(name), updates=12), 20)
    stash = weights_along(make_strategy("stash"), 20)
    assert all(torch.equal(a, b) for a, b in zip(warmed[:12], stash[:12], strict=True))
    assert not torch.equal(warmed[12], stash[12])


@pytest.mark.parametrize("name", OTHERS)
def test_without_updates_it_is_the_other_method(name):
    warmed = weights_along(StashFirst(then=make_strategy(name), updates=0), 12)
    assert all(torch.equal(a, b) for a, b in zip(warmed, weights_along(make_strategy(name), 12), strict=True))


def test_the_average_is_full_when_it_takes_over():
    """On equal updates the recalled weights are exact from the first step after the change."""
    recalled = recall_along(StashFirst(then=make_strategy("ema-span"), updates=10), line(30), 4)
    torch.testing.assert_close(recalled, delayed(line(30), 4), rtol=0, atol=1e-12)


def test_it_needs_the_memory_of_the_larger_method():
    assert StashFirst(then=make_strategy("ema-span"), updates=5).copies(18) == 18
    assert StashFirst(then=make_strategy("ema-span"), updates=5).copies(0) == 0


def test_a_checkpoint_of_another_warm_up_is_refused():
    saved = engine(StashFirst(then=make_strategy("ema-span"), updates=5))[0].state_dict()
    engine(StashFirst(then=make_strategy("ema-span"), updates=5))[0].load_state_dict(copy.deepcopy(saved))
    shorter, plain = StashFirst(then=make_strategy("ema-span"), updates=6), make_strategy("ema-span")
    for other in (shorter, plain, StashFirst(then=make_strategy("ema-lsq"), updates=5)):
        with pytest.raises(UserError, match="resume with the same"):
            engine(other)[0].load_state_dict(copy.deepcopy(saved))


def _losses(**settings):
    return [row["train_loss"] for row in train_run(RunConfig(**RUN | settings), progress=False)["epochs"]]


def test_a_run_warms_up_for_whole_epochs():
    stash, warmed = _losses(strategy="stash"), _losses(strategy="latest", stash_epochs=1.0)
    assert warmed[0] == stash[0]
    assert warmed[1] != stash[1]
    assert _losses(strategy="latest", stash_epochs=3.0) == stash


def test_the_record_counts_the_memory_of_the_warm_up():
    plain, warmed, stash = (
        train_run(RunConfig(**RUN | {"epochs": 1} | settings), progress=False)["history_copies"]
        for settings in ({"strategy": "ema-span"}, {"strategy": "ema-span", "stash_epochs": 0.5}, {"strategy": "stash"})
    )
    assert plain < warmed == stash


def test_a_pipeline_that_is_drained_every_epoch_has_no_warm_up():
    with pytest.raises(UserError, match="drain fills it every epoch"):
        RunConfig(drain=True, stash_epochs=1.0)
