"""Which steps are audited, and where a limit of steps ends the training."""

import pytest

from layerpipe2.engine.execution import StepLimit
from tests.engine.training import checkpoint, fit, module, resume, resumes


@pytest.mark.parametrize("limit", [4, 6, 8, 12])
def test_a_limit_of_steps_ends_the_training(limit):
    """An epoch has six."""
    model = fit(module("latest"), 3, callbacks=[StepLimit(limit)], enable_checkpointing=False)
    assert model.trainer.global_step == limit


@resumes
def test_a_run_that_is_resumed_at_its_limit_trains_no_further(tmp_path):
    path = checkpoint(tmp_path, module("latest"), 1)
    assert resume(path, module("latest"), 3, callbacks=[StepLimit(6)]).trainer.global_step == 6
