"""Stages reach each other by their one tensor only: what else passes between them is refused, what stays inside not."""

from functools import lru_cache
from weakref import ref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.engine.side_channels import SideChannels
from layerpipe2.engine.step import PipelineEngine
from tests.engine.training import MIDDLE, optimizer_of, train
from tests.pipeline.fits import stage_alone


class By(nn.Linear):
    """A linear layer that shares a ``box`` with others, and a forward pass ``function(layer, x)``."""

    def __init__(self, function, box):
        super().__init__(8, 8)
        self.function, self.box = function, box

    def forward(self, x):
        return self.function(self, x)


def linear(layer, x):
    return F.linear(x, layer.weight, layer.bias)


def putting(layer, x):
    y = linear(layer, x)
    layer.box["value"] = y
    return y


def putting_detached(layer, x):
    y = linear(layer, x)
    layer.box["value"] = y.detach()
    return y


def putting_input(layer, x):
    layer.box["value"] = x
    return linear(layer, x)


def writing(layer, x):
    layer.box["value"].copy_(x.detach())
    return linear(layer, x)


def getting(layer, x):
    return linear(layer, x) + layer.box.get("value", 0)


def stages_of(first, last, box=None, between=nn.Linear):
    box = {} if box is None else box
    return [By(first, box), between(8, 8), By(last, box)]


class Views(nn.Module):
    def __init__(self, *_):
        super().__init__()

    def forward(self, x):
        return x.view(4, 8)


class Feature(nn.Linear):
    """Leaves an auxiliary loss in an attribute."""

    def forward(self, x):
        y = super().forward(x)
        self.extra = 0.1 * y.square().mean()
        return y


def with_a_weight_of_the_head(detached):
    def function(layer, x):
        weight = layer.kept[0].detach() if detached else layer.kept[0]
        return linear(layer, x) + x @ weight

    head, first = nn.Linear(8, 8), By(function, {})
    first.kept = [head.weight]
    return [first, nn.Linear(8, 8), head]


def with_statistics_of_another():
    norm = nn.BatchNorm1d(8)
    last = By(lambda layer, x: linear(layer, x - layer.kept[0].running_mean), {})
    last.kept = [norm]
    return [nn.Sequential(nn.Linear(8, 8), norm), nn.Linear(8, 8), last]


def by_attribute(k):
    stages = [nn.Linear(8, 8) for _ in range(3)]
    stages[k] = Feature(8, 8)
    return stages, lambda outputs, y: F.cross_entropy(outputs, y) + stages[k].extra


def drawing(layer, x):
    if "value" not in layer.box:
        layer.box["value"] = torch.randn(8)
    return linear(layer, x) * layer.box["value"]


OF_FIRST = "stage 2 computes with a value of stage 0"
REFUSED = {
    "skip": (lambda: stages_of(putting, getting), OF_FIRST),
    "skip, detached": (lambda: stages_of(putting_detached, getting), OF_FIRST),
    "skip, by a view": (lambda: stages_of(putting, getting, between=Views), OF_FIRST),
    "the batch": (lambda: stages_of(putting_input, getting), OF_FIRST),
    "memory": (lambda: stages_of(writing, getting, {"value": torch.zeros(4, 8)}), OF_FIRST),
    "backwards": (lambda: stages_of(getting, putting_detached), "stage 0 .* a value of stage 2"),
    "random": (lambda: stages_of(drawing, drawing), OF_FIRST),
    "weight": (lambda: with_a_weight_of_the_head(False), "stage 0 computes with a weight of stage 2"),
    "weight, detached": (lambda: with_a_weight_of_the_head(True), "stage 0 .* a weight of stage 2"),
    "statistics": (with_statistics_of_another, OF_FIRST),
    "auxiliary loss": (lambda: by_attribute(0), "the loss computes with a value of stage 0"),
    "auxiliary loss, middle": (lambda: by_attribute(1), "the loss computes with a value of stage 1"),
}


def train_with(made, strategy, steps=5, delays=MIDDLE):
    """``made``: stages, or stages and a loss."""
    stages, loss = made if isinstance(made, tuple) else (made, F.cross_entropy)
    pipeline = PipelineEngine(stages, delays, make_strategy(strategy))
    optimizer, generator = optimizer_of(pipeline), torch.Generator().manual_seed(5)
    for _ in range(steps):
        x = torch.randn(4, 8, generator=generator)
        pipeline.train_step(x, x if loss is F.mse_loss else torch.tensor([1, 2, 3, 4]), loss, optimizer)


@pytest.mark.parametrize("strategy", ["stash", "latest"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, strategy):
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        train_with(make(), strategy)


@lru_cache
def table(n):
    return torch.arange(n).float().sin()


def with_constants(layer, x):
    return linear(layer, x * table(8)) * layer.box.setdefault("seeded", torch.randn(8, generator=seeded()))


def seeded():
    return torch.Generator().manual_seed(1)


def with_state(layer, x):
    y = linear(layer, x) + getattr(layer, "before", 0)
    layer.before = 0.1 * y.detach() + 0.1 * x.detach()
    return y


def residual(layer, x):
    y = linear(layer, x)
    y += x
    return y


def with_workspace(layer, x):
    with torch.no_grad():
        torch.mul(x, 2.0, out=layer.box["space"])
        layer.box["space"].add_(1)
        total = layer.box["space"].sum()
    return linear(layer, x) * total.cos()


def monitored(layer, x):
    y = linear(layer, x)
    with torch.no_grad():
        layer.box["sum"] += y.mean()
    return y


def view_in_place():
    return [nn.Linear(8, 8), nn.Unflatten(1, (2, 4)), nn.Sequential(nn.ReLU(True), nn.Flatten(), nn.Linear(8, 8))]


def with_buffers():
    constant = torch.randn(8)
    stages = [By(lambda layer, x: linear(layer, x * layer.constant), {}) for _ in range(3)]
    for stage in stages:
        stage.register_buffer("constant", constant.view(8))
    return stages


def with_a_frozen_weight():
    frozen = nn.Linear(8, 8).requires_grad_(False)
    return [By(lambda layer, x: linear(layer, frozen(x)), {}) for _ in range(3)]


TRAINED = {
    "constants": lambda: stages_of(with_constants, with_constants),
    "state": lambda: [By(with_state, {}) for _ in range(3)],
    "residual": lambda: [By(residual, {}) for _ in range(3)],
    "workspace": lambda: stages_of(with_workspace, with_workspace, {"space": torch.zeros(4, 8)}),
    "monitored": lambda: stages_of(monitored, monitored, {"sum": torch.zeros(())}),
    "in place": lambda: [nn.Linear(8, 8), *(nn.Sequential(nn.ReLU(True), nn.Linear(8, 8)) for _ in "ab")],
    "in place, a view": view_in_place,
    "buffers": with_buffers,
    "frozen weight": with_a_frozen_weight,
    "auxiliary loss of the last stage": lambda: by_attribute(2),
    "targets are the inputs": lambda: ([nn.Linear(8, 8) for _ in range(3)], F.mse_loss),
}


@pytest.mark.parametrize("name", TRAINED)
def test_trained(name):
    train_with(TRAINED[name](), "latest")


def test_without_delays_stages_are_one_network():
    train_with(REFUSED["skip"][0](), "latest", delays=Delays.none(3))


def test_a_channel_that_opens_later_is_found_by_the_next_audit():
    stages = stages_of(putting, linear)
    pipeline = PipelineEngine(stages, MIDDLE, make_strategy("latest"))
    train(pipeline, 3)
    stages[2].function = getting
    pipeline.audit_next()
    with pytest.raises(UserError, match="stage 2 computes with a value of stage 0"):
        train(pipeline)


@pytest.mark.parametrize("last", [getting, linear])
def test_two_stages_in_one_process(last):
    stages = stages_of(putting_detached, last)[::2]
    channels = SideChannels(lambda: ((k, p) for k, stage in enumerate(stages) for p in stage.parameters()))
    sgd = [torch.optim.SGD(stage.parameters(), lr=0.1) for stage in stages]
    how = {"channels": channels, "audits": 3}
    first, second = (stage_alone(s, k, 1 - k, "latest", sgd[k], **how) for k, s in enumerate(stages))
    x = torch.randn(4, 8)
    outputs = [first.forward(x)[0] for _ in range(2)]  # one runs ahead
    if last is linear:
        second.forward(outputs[0])
        return
    with pytest.raises(UserError, match="stage 1 computes with a value of stage 0"):
        second.forward(outputs[0])


def test_layers_that_a_split_pass_can_not_part_are_refused():
    box = {}
    shared = By(lambda layer, x: F.linear(x, layer.kept[0]), {})
    first = nn.Linear(8, 8)
    shared.kept = [first.weight]
    for stage in (nn.Sequential(By(putting, box), By(getting, box)), nn.Sequential(first, shared)):
        sgd = torch.optim.SGD(stage.parameters(), lr=0.1)
        stage_alone(stage, 1, 1, "latest", sgd).forward(torch.randn(4, 8))
        split = stage_alone(stage, 1, 1, "latest", sgd, split_backward=True)
        with pytest.raises(UserError, match=r"^a By of stage 1 reads what another layer has computed, or its weight"):
            split.forward(torch.randn(4, 8))


def test_a_loss_that_a_split_pass_can_not_part_is_refused():
    stage = nn.Sequential(Feature(8, 8), nn.Linear(8, 8))
    passes = stage_alone(stage, 2, 0, "latest", torch.optim.SGD(stage.parameters(), lr=0.1), split_backward=True)
    with pytest.raises(UserError, match=r"^the loss reads what another layer has computed"):
        passes.forward(torch.randn(4, 8), lambda y: y.mean() + stage[0].extra)


def test_the_memory_of_a_weight_that_goes_during_a_pass_is_not_given_away_before_its_end():
    """A dropped stage of another process may hold its weights until garbage is collected."""
    weights = [nn.Parameter(torch.randn(1000))]
    known, address = ref(weights[0]), weights[0].data_ptr()
    channels = SideChannels(lambda: ((1, p) for p in [known()] if p is not None))
    channels.begin()
    weights.clear()
    assert known() is None
    assert address not in [tensor.data_ptr() for tensor in [torch.randn(1000) for _ in range(50)]]
