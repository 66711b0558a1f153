"""How many mini-batches a training still has, as far as its ``Trainer`` can know."""

import math
from types import SimpleNamespace

import pytest

from layerpipe2.engine.execution import StepLimit
from layerpipe2.pipeline.training_settings import remaining_batches


def remaining(accumulate=1, callbacks=(), **given):
    asked = {"max_epochs": 3, "max_steps": -1, "current_epoch": 0, "global_step": 0, "num_training_batches": 5}
    trainer = SimpleNamespace(callbacks=list(callbacks), **asked | given)
    return remaining_batches(SimpleNamespace(trainer=trainer, accumulate=accumulate))


@pytest.mark.parametrize(
    ("batches", "given"),
    [
        (15, {}),
        (10, {"current_epoch": 1}),
        (7, {"max_steps": 7}),
        (4, {"max_steps": 9, "current_epoch": 1, "global_step": 5}),
        (8, {"max_steps": 4, "accumulate": 2}),
        (6, {"max_epochs": -1, "max_steps": 6}),
        (math.inf, {"max_epochs": None}),
        (12, {"callbacks": [StepLimit(12)]}),
        (2, {"callbacks": [StepLimit(12)], "current_epoch": 2, "max_epochs": 4}),
    ],
)
def test_mini_batches_that_are_left(batches, given):
    assert remaining(**given) == batches
