"""PipeMare's T3: a training without delays, and one with them that goes on from it."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from experiments.field.rows import OPTIMIZERS
from experiments.field.synchronous import going_on
from layerpipe2 import PipelinedModule
from tests.pipeline.fits import noise, trainer
from tests.reference import Stage, clock_of, delay_of, make_method, tick_through

BEFORE, AFTER, BATCHES = 2, 3, 5


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_second_training_goes_on_where_the_first_has_ended(optimizer):
    make = partial(OPTIMIZERS[optimizer], lr=0.01)
    torch.manual_seed(0)
    sizes = [(12, 8), (8, 8), (8, 4)]
    stages = [nn.Sequential(nn.Linear(*size), nn.ReLU()).double() for size in sizes]
    twins, losses, factor = copy.deepcopy(stages), [], lambda t: 0.95**t
    data = noise(dtype=torch.float64)

    def loss(outputs, y):
        value = nn.functional.cross_entropy(outputs, y)
        losses.extend([float(value.detach())] if outputs.requires_grad else [])
        return value

    def fit(delays, epochs, make, last):
        rates = lambda one: LambdaLR(one, factor, last_epoch=last)  # noqa: E731
        how = {"optimizer": make, "loss": loss, "scheduler": rates, "scheduler_interval": "step"}
        module = PipelinedModule(stages, delays, "latest", **how)
        trainer(None, max_epochs=epochs).fit(module, data, data)
        return module

    first = fit("none", BEFORE, make, -1)
    fit("layerpipe2", AFTER, going_on(make, first.trainer.optimizers[0]), BATCHES * BEFORE - 1)

    expected, clocked = [], [Stage(twin, make, "latest", 0) for twin in twins]
    for law, epochs in (("none", BEFORE), ("layerpipe2", AFTER)):
        clock, done = clock_of(law), len(expected)
        for k, stage in enumerate(clocked):
            stage.method, stage.shown = make_method("latest", delay_of(clock(3, k)), stage.weights()), None
        expected += tick_through(clocked, list(data) * epochs, clock, lambda t, n=done: 0.01 * factor(n + t), None)
    assert losses == pytest.approx(expected, abs=1e-12)
    for mine, theirs in zip(nn.ModuleList(stages).parameters(), nn.ModuleList(twins).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
