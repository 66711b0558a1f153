"""Which steps are audited, and where a limit of steps ends the training."""

import math

import pytest

from layerpipe2.engine.epoch import AuditSteps
from layerpipe2.engine.execution import StepLimit
from tests.engine.training import checkpoint, fit, module, resume, resumes


@pytest.mark.parametrize("batches", [1, 2, 6, 5000, math.inf])
def test_an_epoch_has_its_first_step_audited_and_a_drawn_one(batches):
    steps, drawn = AuditSteps(), set()
    for epoch in range(40):
        steps.start_epoch(epoch, batches)
        due = []
        for step in range(1001):
            steps.step = step
            due += [step] if steps.due else []
        assert due[0] == 0
        drawn.add(*due[1:])
    assert (min(drawn) >= 1, max(drawn) <= max(1, min(batches, 1000) - 1)) == (True, True)
    assert len(drawn) == 1 if batches <= 2 else len(drawn) >= 5


@pytest.mark.parametrize("limit", [4, 6, 8, 12])
def test_a_limit_of_steps_ends_the_training(limit):
    """An epoch has six."""
    model = fit(module("latest"), 3, callbacks=[StepLimit(limit)], enable_checkpointing=False)
    assert model.trainer.global_step == limit


@resumes
def test_a_run_that_is_resumed_at_its_limit_trains_no_further(tmp_path):
    path = checkpoint(tmp_path, module("latest"), 1)
    assert resume(path, module("latest"), 3, callbacks=[StepLimit(6)]).trainer.global_step == 6
