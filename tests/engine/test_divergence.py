"""A training that diverges says where: epoch, mini-batch, stage and quantity."""

import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from layerpipe2.engine.divergence import Divergence
from tests.engine.training import engine, fit, module, optimizer_of, train


class Log(nn.Module):
    def forward(self, x):
        return torch.log(x * 0)


def test_the_first_stage_that_is_not_finite():
    pipeline = engine(nn.Sequential(nn.Linear(8, 8), Log()))
    train(pipeline)
    assert pipeline.divergence == Divergence(1, "outputs")


def test_weights_that_an_update_made_infinite():
    pipeline = engine(nn.Linear(8, 8))
    optimizer = optimizer_of(pipeline)
    train(pipeline, 2, optimizer)
    assert pipeline.divergence is None
    optimizer.param_groups[0]["lr"] = float("inf")
    train(pipeline, 1, optimizer)
    assert pipeline.divergence is None, "the update comes after the loss"
    optimizer.param_groups[0]["lr"] = 0.1
    train(pipeline, 2, optimizer)
    assert pipeline.divergence == Divergence(2, "weights"), "the stage without delay reads them first"


def test_data_and_loss():
    pipeline = engine(nn.Linear(8, 8))
    step = lambda x, loss: pipeline.train_step(x, torch.zeros(4, 8), loss, optimizer_of(pipeline))  # noqa: E731
    step(torch.full((4, 8), float("nan")), nn.functional.mse_loss)
    assert pipeline.divergence == Divergence(None, "mini-batch")
    pipeline = engine(nn.Linear(8, 8))
    step(torch.ones(4, 8), lambda y, t: y.sum() * float("inf"))
    assert pipeline.divergence == Divergence(None, "loss")


class Infinite(Callback):
    """Makes the update after mini-batch ``batch`` of the second epoch infinite."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, self.batch):
            trainer.optimizers[0].param_groups[0]["lr"] = float("inf")


def test_where_a_training_diverged():
    model = fit(module("latest", scheduler=None), 3, callbacks=[Infinite(2)], enable_checkpointing=False)
    assert model.execution.where_diverged() == {"epoch": 1, "step": 3, "stage": 3, "quantity": "weights"}
    assert model.execution.diverged is not None
    fit(module("latest"), 1)
    model.execution.diverged = None
    found = model.execution.where_diverged()
    assert (found["step"], found["stage"], found["quantity"]) == (None, 0, "weights"), "what is known without steps"
