"""Which steps are audited, and where a limit of steps ends the training."""

import pytest
from torch import nn

from layerpipe2 import UserError
from layerpipe2.engine.execution import StepLimit
from layerpipe2.engine.simulation import Simulation
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


def test_stages_that_several_processes_left_are_taken_up_if_all_are_there():
    model = module("stash")
    stages = list(model.stages)
    model.stages = nn.ModuleDict({str(k): stage for k, stage in enumerate(stages[1:])})
    with pytest.raises(UserError, match="left this one some of the stages only"):
        Simulation(model)
    model.stages = nn.ModuleDict({str(k): stage for k, stage in enumerate(stages)})
    Simulation(model)
    assert list(model.stages) == stages
