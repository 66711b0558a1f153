"""Parameters are views of the latest weights, and of others while passes run: what may be done to them meanwhile."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.engine.step import PipelineEngine
from tests.engine.training import engine, optimizer_of, train

CHANGED = "stage 1: weights were changed between two updates"
PRECISIONS = [None, torch.bfloat16]


def one_step(pipeline, optimizer, hook=None):
    return pipeline.train_step(torch.randn(4, 8), torch.tensor([1, 2, 3, 4]), F.cross_entropy, optimizer, hook)


def raises(name):
    def hook(called, *_):
        if called == name:
            raise KeyError(name)

    return hook


@pytest.mark.parametrize("compute_dtype", PRECISIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["on_before_zero_grad", "on_before_backward", "on_after_backward"])
def test_an_error_in_a_hook_is_that_error_and_the_latest_weights_are_back(name, accumulate, compute_dtype):
    pipeline = engine(nn.Linear(8, 8), "ema-span", accumulate=accumulate, compute_dtype=compute_dtype)
    optimizer = optimizer_of(pipeline)
    for _ in range(4):
        one_step(pipeline, optimizer)
    latest = copy.deepcopy([stage.state_dict() for stage in pipeline.stages])
    with pytest.raises(KeyError, match=name):
        one_step(pipeline, optimizer, raises(name))
    for stage, before in zip(pipeline.stages, latest, strict=True):
        assert all(torch.equal(value, before[key]) for key, value in stage.state_dict().items())


def test_an_update_that_was_interrupted_is_not_gone_on_with():
    pipeline = engine(nn.Linear(8, 8), "stash")
    optimizer = optimizer_of(pipeline)
    one_step(pipeline, optimizer)
    broken = torch.optim.SGD(pipeline.stages[0].parameters(), lr=0.1)
    broken.step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        one_step(pipeline, broken)
    with pytest.raises(UserError, match="an error has interrupted an update"):
        one_step(pipeline, optimizer)
    pipeline.refill()
    one_step(pipeline, optimizer)


def replaced(pipeline):
    pipeline.stages[1].weight.data = torch.zeros(8, 8)


@pytest.mark.parametrize("compute_dtype", PRECISIONS)
@pytest.mark.parametrize("name", ["on_before_zero_grad", "on_before_backward", "on_after_backward"])
def test_weights_replaced_in_a_hook_are_refused(name, compute_dtype):
    pipeline = engine(nn.Linear(8, 8), "stash", compute_dtype=compute_dtype)
    with pytest.raises(UserError, match=CHANGED):
        one_step(pipeline, optimizer_of(pipeline), lambda called, *_: called == name and replaced(pipeline))


@pytest.mark.parametrize("compute_dtype", PRECISIONS)
@pytest.mark.parametrize("strategy", ["stash", "ema-span"])
def test_an_optimizer_may_give_parameters_other_memory(strategy, compute_dtype):
    class Rebinding(torch.optim.SGD):
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                p.data = p.data - 0.1 * p.grad

    trained = []
    for kind in (torch.optim.SGD, Rebinding):
        torch.manual_seed(0)
        pipeline = engine(nn.Linear(8, 8), strategy, compute_dtype=compute_dtype)
        parameters = [p for stage in pipeline.stages for p in stage.parameters()]
        trained.append(train(pipeline, 6, kind(parameters, lr=0.1)))
    assert trained[1] == pytest.approx(trained[0], abs=1e-5)


def test_a_forward_pass_that_changes_weights_is_refused_where_a_copy_was_kept_too():
    class Clamping(nn.Linear):
        active = False

        def forward(self, x):
            if self.active:
                with torch.no_grad():
                    self.weight.clamp_(-0.01, 0.01)
            return super().forward(x)

    layer = Clamping(8, 8)
    pipeline = engine(layer, "stash")
    optimizer = optimizer_of(pipeline)
    for _ in range(3):
        one_step(pipeline, optimizer)
    pipeline.note()
    layer.active = True
    with pytest.raises(UserError, match=CHANGED):
        one_step(pipeline, optimizer)


def reshape(layer):
    layer.weight.data = torch.ones(3, 3)


@pytest.mark.parametrize("change", [nn.Linear.double, reshape])
def test_weights_of_another_type_or_shape_are_refused(change):
    pipeline = engine(nn.Linear(8, 8), "ema-span")
    optimizer = optimizer_of(pipeline)
    one_step(pipeline, optimizer)
    pipeline.note()
    change(pipeline.stages[1])
    with pytest.raises(UserError, match=CHANGED):
        one_step(pipeline, optimizer)


def test_an_empty_pipeline_takes_weights_as_they_lie_in_memory():
    layers = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)]
    stages = [nn.Sequential(*layers), nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5))]
    pipeline = PipelineEngine(stages, Delays.custom([1, 0]), make_strategy("ema-span"))
    one, other = (layer.weight.detach().clone() for layer in layers)
    layers[0].to(memory_format=torch.channels_last)
    layers[0].weight.data, layers[1].weight.data = layers[1].weight.data, layers[0].weight.data
    pipeline.refill()
    assert torch.equal(layers[0].weight, other)
    assert torch.equal(layers[1].weight, one)
