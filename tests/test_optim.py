"""Optimizers that do a pipeline's part of an update in their step: torch's numbers, or torch's step."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import LambdaCallback
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from layerpipe2 import Delays, PipelinedModule, UserError, make_strategy, optim
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import sweeps

KINDS = {optim.SGD: torch.optim.SGD, optim.AdamW: torch.optim.AdamW}
SETTINGS = {
    "plain": (optim.SGD, {"lr": 0.1}),
    "decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.02}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02}),
    "nesterov": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adamw": (optim.AdamW, {"lr": 0.05}),
    "adamw, other": (optim.AdamW, {"lr": 0.05, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
}
LEFT = {
    "maximize": (optim.SGD, {"lr": 0.1, "maximize": True}),
    "dampening": (optim.SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.3}),
    "foreach": (optim.AdamW, {"lr": 0.1, "foreach": True}),
    "fused": (optim.AdamW, {"lr": 0.1, "fused": True}),
    "amsgrad": (optim.AdamW, {"lr": 0.1, "amsgrad": True}),
    "a rate that is a tensor": (optim.SGD, {"lr": torch.tensor(0.1)}),
}
"""What the loop can't do."""


@pytest.fixture
def loops(monkeypatch):
    """How often the loop runs."""
    called, own = [], sweeps.loops()

    class Counting:
        def __getattr__(self, name):
            if name == "step_all":
                called.append(name)
            return getattr(own, name)

    monkeypatch.setattr(sweeps, "loops", Counting)
    return called


def parameters(dtype=torch.float64):
    """Two vectors longer than what the loop takes at a time, a matrix, and a kernel with channels last."""
    torch.manual_seed(0)
    shapes = (5000,), (4097,), (6, 7), (4, 3, 2, 2)
    found = [torch.randn(shape).to(dtype) for shape in shapes]
    found[3] = found[3].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(one) for one in found]


def steps(optimizer, first=0, count=5):
    """Updates with gradients that depend on the update's number; that of the matrix is missing at times."""
    given = [p for group in optimizer.param_groups for p in group["params"]]
    for t in range(first, first + count):
        generator = torch.Generator().manual_seed(t)
        for p in given:
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            if p.shape == (6, 7) and t % 3 == 2:
                p.grad = None
        optimizer.step()
    return [p.detach() for p in given]


def close(ours, theirs):
    return all(torch.allclose(one, other, rtol=1e-12, atol=1e-12) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_are_torchs_also_over_a_checkpoint_of_either(name, loops):
    kind, settings = SETTINGS[name]
    ours, theirs = kind(parameters(), **settings), KINDS[kind](parameters(), **settings)
    assert close(steps(ours), steps(theirs))
    swapped = kind(parameters(), **settings), KINDS[kind](parameters(), **settings)
    for made, given in zip(swapped, (theirs, ours), strict=True):
        made.load_state_dict(copy.deepcopy(given.state_dict()))
    assert close(steps(swapped[0], 5), steps(swapped[1], 5))
    assert len(loops) == 10


def test_groups_have_rates_of_their_own():
    def groups():
        found = parameters()
        return [{"params": found[:2]}, {"params": found[2:], "lr": 0.01, "momentum": 0.0}]

    ours, theirs = (kind(groups(), lr=0.1, momentum=0.9) for kind in (optim.SGD, torch.optim.SGD))
    assert close(steps(ours), steps(theirs))


@pytest.mark.parametrize("name", LEFT)
def test_other_settings_are_left_to_torch(name, loops):
    kind, settings = LEFT[name]
    ours, theirs = kind(parameters(), **settings), KINDS[kind](parameters(), **settings)
    assert all(map(torch.equal, steps(ours), steps(theirs)))
    assert not loops


def test_other_tensors_are_left_to_torch(loops, monkeypatch):
    half = [kind(parameters(torch.bfloat16), lr=0.1) for kind in (optim.SGD, torch.optim.SGD)]
    assert all(map(torch.equal, *map(steps, half)))
    turned = [kind([nn.Parameter(torch.ones(3, 4).T)], lr=0.1) for kind in (optim.SGD, torch.optim.SGD)]
    for optimizer in turned:
        optimizer.param_groups[0]["params"][0].grad = torch.arange(12.0).reshape(4, 3)
        optimizer.step()
    assert torch.equal(*(optimizer.param_groups[0]["params"][0] for optimizer in turned))
    sparse = nn.Embedding(5, 2, sparse=True)
    sparse(torch.tensor([1, 3])).sum().backward()
    optim.SGD(sparse.parameters(), lr=1.0).step()
    assert not loops
    monkeypatch.setattr(sweeps, "loops", lambda: None)
    without = [kind(parameters(), lr=0.1, momentum=0.9) for kind in (optim.SGD, torch.optim.SGD)]
    assert all(map(torch.equal, *map(steps, without)))


def engine(strategy, frozen=False):
    torch.manual_seed(1)
    stages = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()).double() for _ in range(3)] + [nn.Linear(6, 4).double()]
    stages[1][0].bias.requires_grad_(not frozen)
    return PipelineEngine(stages, Delays.layerpipe2(4), make_strategy(strategy), unfreezes=frozen)


def train(pipeline, optimizer, updates=12):
    for t in range(updates):
        generator = torch.Generator().manual_seed(t)
        x = torch.randn(8, 6, dtype=torch.float64, generator=generator)
        pipeline.train_step(x, torch.arange(8) % 4, F.cross_entropy, optimizer)
    return pipeline


def flat(state):
    """The tensors of a nested dictionary, as float64."""
    if isinstance(state, torch.Tensor):
        return [state.double()]
    return [tensor for item in (state.values() if isinstance(state, dict) else state) for tensor in flat(item)]


def own(pipeline):
    return {index: weights.state_dict() for index, weights in pipeline.delayed.items()}


def optimizer_of(pipeline, kind, **settings):
    return kind([p for stage in pipeline.stages for p in stage.parameters()], **{"lr": 0.05} | settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["stash", "latest", "ema-span", "ema-0.9-raw", "pair", "update-window"])
def test_a_pipeline_keeps_and_averages_the_same(strategy, kind, loops):
    """In line and state too; and again where a parameter is frozen, whose step is torch's."""
    ours, theirs = engine(strategy), engine(strategy)
    train(ours, optimizer_of(ours, kind))
    assert len(loops) == 12
    train(theirs, optimizer_of(theirs, KINDS[kind]))
    assert close(flat(own(ours)), flat(own(theirs)))
    frozen = [
        train(one, optimizer_of(one, made))
        for one, made in zip([engine(strategy, True), engine(strategy, True)], (kind, KINDS[kind]), strict=True)
    ]
    assert len(loops) == 12
    assert close(*(flat(own(one)) for one in frozen))


def shrink(parameter, *_):
    parameter.data.mul_(0.9)


def hooked(register):
    """An update in which a hook of the step changes weights."""

    def made(pipeline, kind):
        optimizer = optimizer_of(pipeline, kind)
        handle = register(optimizer)(partial(shrink, pipeline.stages[0][0].weight))
        return optimizer, handle.remove

    return made


def subclassed(pipeline, kind):
    class Clamping(kind):
        def step(self, closure=None):
            super().step(closure)
            shrink(pipeline.stages[0][0].weight)

    return optimizer_of(pipeline, Clamping), lambda: None


def wrapped(pipeline, kind):
    class Wrapper:
        """As a Lookahead has its optimizer."""

        def __init__(self):
            self.optimizer = optimizer_of(pipeline, kind)
            self.param_groups = self.optimizer.param_groups

        def step(self, closure=None):
            self.optimizer.step(closure)
            shrink(pipeline.stages[0][0].weight)

    return Wrapper(), lambda: None


CHANGING = {
    "before": hooked(lambda optimizer: optimizer.register_step_pre_hook),
    "after": hooked(lambda optimizer: optimizer.register_step_post_hook),
    "before, everywhere": hooked(lambda _: register_optimizer_step_pre_hook),
    "after, everywhere": hooked(lambda _: register_optimizer_step_post_hook),
    "subclass": subclassed,
    "wrapper": wrapped,
}


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_weights_around_the_step_is_part_of_the_update(name):
    found = []
    for kind in (optim.SGD, torch.optim.SGD):
        pipeline = engine("ema-span")
        optimizer, end = CHANGING[name](pipeline, kind)
        found.append(flat(own(train(pipeline, optimizer))))
        end()
    assert close(*found)


@pytest.mark.parametrize("strategy", ["stash", "ema-span"])
def test_a_callback_that_changes_weights_within_the_step_is_part_of_the_update(strategy):
    found = []
    for kind in (optim.SGD, torch.optim.SGD):
        torch.manual_seed(2)
        stages = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 4)]
        module = PipelinedModule(stages, "layerpipe2", strategy, optimizer=partial(kind, lr=0.3, momentum=0.9))
        moved = stages[0][0].weight
        clamping = LambdaCallback(on_before_optimizer_step=lambda *_, moved=moved: moved.data.clamp_(-0.2, 0.2))
        data = [(torch.randn(8, 6), torch.arange(8) % 4) for _ in range(12)]
        with running_lightning(".*does not have many workers", ".*`val_dataloader`"):
            quiet_trainer(1, torch.device("cpu"), [clamping], limits=(None, 0)).fit(module, DataLoader(data, None))
        found.append(flat(module.state_dict()))
    assert all(map(torch.equal, *found))


def test_a_step_that_keeps_weights_refuses_a_closure_that_changes_them():
    optimizer = optim.SGD(parameters(), lr=0.1)
    optimizer.around = object()
    (moved, *_) = optimizer.param_groups[0]["params"]
    with pytest.raises(UserError, match=r"changed within the optimizer's step .* take the optimizer of torch\.optim"):
        optimizer.step(lambda: moved.detach().mul_(0.5))
    assert optimizer.around is None


def test_memory_of_another_shape_is_left_to_torch_which_refuses_it():
    small, large = (optim.SGD([nn.Parameter(torch.ones(n))], lr=0.1, momentum=0.9) for n in (5, 64))
    for optimizer in (small, large):
        (p,) = optimizer.param_groups[0]["params"]
        p.grad = torch.ones_like(p)
    small.step()
    large.load_state_dict(small.state_dict())
    with pytest.raises(RuntimeError, match="size"):
        large.step()


def numbers(values, gradients, kind, **settings):
    p = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    optimizer = kind([p], **settings)
    for gradient in gradients:
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize(
    ("kind", "values", "gradients", "settings"),
    [
        (optim.SGD, [float("-inf"), 1.0], [[0.0, 1.0]] * 3, {"lr": 0.1, "momentum": 0.9}),
        (optim.SGD, [1.0, 1.0], [[float("nan"), 1.0]] * 2, {"lr": 0.1}),
        (optim.AdamW, [1.0, 1.0], [[0.0, 1.0]] * 3, {"lr": 0.1, "eps": 0.0}),
    ],
    ids=["infinite weight", "gradient that is no number", "no eps"],
)
def test_odd_numbers_are_torchs(kind, values, gradients, settings):
    ours, theirs = (numbers(values, gradients, one, **settings) for one in (kind, KINDS[kind]))
    assert torch.allclose(ours, theirs, rtol=1e-12, equal_nan=True)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_that_is_given_twice_moves_twice(kind):
    found = []
    for one in (kind, KINDS[kind]):
        p = nn.Parameter(torch.ones(4))
        optimizer = one([p, p], lr=0.1)
        p.grad = torch.arange(4.0)
        optimizer.step()
        found.append(p.detach())
    assert torch.equal(*found)


def test_autograd_sees_that_weights_have_moved():
    p = nn.Parameter(torch.ones(3))
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
