"""Parameters are frozen and unfrozen while training, or it is refused in one line; numbers: tests/programs."""

from contextlib import nullcontext

import pytest
import torch
from pytorch_lightning.callbacks import BaseFinetuning, Callback
from torch import nn

from layerpipe2 import UserError
from tests.engine.training import (
    assert_bit_equal,
    checkpoint,
    engine,
    fit,
    module,
    optimizer_of,
    resume,
    resumes,
    train,
)


@pytest.mark.parametrize("whole", [True, False])
def test_unfreezing_must_be_announced(whole):
    middle = nn.Linear(8, 8)
    parameters = [middle.weight, middle.bias] if whole else [middle.bias]
    for parameter in parameters:
        parameter.requires_grad_(False)
    pipeline = engine(middle)
    optimizer = optimizer_of(pipeline)
    train(pipeline, 2, optimizer)
    middle.bias.requires_grad_(True)
    with pytest.raises(UserError, match=r"stage 1: a parameter that was frozen .* PipelinedModule\(unfreezes=True\)"):
        train(pipeline, 1, optimizer)


def test_low_precision():
    """A parameter that may be unfrozen later is computed with in the same type as one that is trained."""
    results = []
    for unfreezes in (True, False):
        torch.manual_seed(1)
        middle = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8).requires_grad_(False))
        pipeline = engine(middle, unfreezes=unfreezes, compute_dtype=torch.bfloat16)
        results.append(train(pipeline, 4))
    assert results[0] == results[1]


def test_a_network_that_is_frozen_as_a_whole_is_refused():
    pipeline = engine(nn.Linear(8, 8))
    for stage in pipeline.stages:
        stage.requires_grad_(False)
    with pytest.raises(UserError, match="nothing of the network is trainable"):
        train(pipeline)


class Unfreeze(BaseFinetuning):
    """Ordinary transfer learning: the first stages are frozen, the second follows in the second epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze([pl_module.stages[0], pl_module.stages[1]], train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            for name, parameter in pl_module.named_parameters():
                if name.startswith("stages.1."):
                    parameter.requires_grad_(True)


def test_fine_tuning_needs_no_announcement():
    model = module("ema-window")
    first, second = (next(model.stages[k].parameters()).detach().clone() for k in (0, 1))
    fit(model, 1, callbacks=[Unfreeze()], enable_checkpointing=False)
    assert torch.equal(second, next(model.stages[1].parameters()))
    fit(model, 3, callbacks=[Unfreeze()], enable_checkpointing=False)
    assert not torch.equal(second, next(model.stages[1].parameters()))
    assert torch.equal(first, next(model.stages[0].parameters()))
    assert model.engine.delayed.keys() >= {0, 1}


@resumes
def test_a_resumed_run_is_frozen_as_the_interrupted_one(tmp_path):
    whole = fit(module("ema-window", stage_seed=1), 4, callbacks=[Unfreeze()], enable_checkpointing=False)
    interrupted = module("ema-window", stage_seed=1)
    path = checkpoint(tmp_path, interrupted, 3, callbacks=[Unfreeze()], every_n_epochs=1)
    resumed = resume(path, module("ema-window", stage_seed=1), 4, callbacks=[Unfreeze()], every_n_epochs=1)
    assert_bit_equal(resumed.state_dict(), whole.state_dict())
    assert all(p.requires_grad for p in resumed.stages[1].parameters())


@pytest.mark.parametrize("change", [lambda p: p.mul_(0.5), lambda p: p.data.mul_(0.5)])
def test_what_is_frozen_from_the_start_stays_as_it_is_while_mini_batches_are_in_the_pipeline(change):
    class Changing(Callback):
        @torch.no_grad()
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                change(pl_module.stages[0][0][0].weight)

    for drain in (True, False):
        model = module("stash", drain=drain)
        model.stages[0][0][0].weight.requires_grad_(False)
        refused = pytest.raises(UserError, match=r"^stage 0: a frozen parameter was changed")
        with nullcontext() if drain else refused:
            fit(model, 2, callbacks=[Changing()], enable_checkpointing=False)
