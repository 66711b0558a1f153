"""Where a stage's weights are over time: rows of the delay line and latest weights, which change roles on the CPU."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.engine import in_place, weights
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies.latest import Latest
from tests.engine.training import engine, load, optimizer_of, train

STRATEGIES = ("stash", "latest", "ema-span", "ema-lsq-raw", "pair", "update-window")


@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
def test_the_delay_line_holds_the_weights_of_the_last_updates(compute_dtype):
    pipeline = engine(nn.Linear(8, 8), "stash", Delays.custom([3, 1, 0]), compute_dtype=compute_dtype)
    optimizer, stage = optimizer_of(pipeline), pipeline.delayed[0]
    weight, slot = pipeline.stages[0].weight, stage.layout.slots[0]
    past = [weight.detach().clone()]
    for t in range(8):
        assert torch.equal(slot.view(stage.latest), weight)
        for version in range(t - 3, t):
            assert torch.equal(slot.view(stage.rows[version % 3]), past[max(0, version)])
            assert torch.equal(stage.line[version % 3], stage.rows[version % 3])
        load(pipeline)
        assert torch.equal(weight, past[max(0, t - 3)].to(compute_dtype or torch.float32))
        pipeline.end()
        train(pipeline, 1, optimizer)
        past.append(weight.detach().clone())


def test_the_forward_pass_of_large_stages_computes_with_the_row_itself(monkeypatch):
    monkeypatch.setattr(in_place, "SMALL", 0)
    pipeline = engine(nn.Linear(8, 8), "ema-span")
    optimizer, stage = optimizer_of(pipeline), pipeline.delayed[0]
    memory = {row.data_ptr() for row in (*stage.rows, stage.latest)}
    for _ in range(5):
        load(pipeline)
        assert pipeline.stages[0].weight.data_ptr() == stage.used().data_ptr()
        pipeline.end()
        train(pipeline, 1, optimizer)
        assert {row.data_ptr() for row in (*stage.rows, stage.latest)} == memory


def takes_one_mini_batch(name):
    strategy = make_strategy(name)
    return strategy.fixed_lag or strategy.acts("gradient")


@pytest.mark.parametrize(
    ("strategy", "accumulate"),
    [(name, 1) for name in STRATEGIES] + [(name, 2) for name in STRATEGIES if not takes_one_mini_batch(name)],
)
def test_small_stages_recall_in_place_and_large_ones_exchange_what_is_saved(strategy, accumulate, monkeypatch):
    def trained():
        torch.manual_seed(0)
        middle = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8))
        pipeline = engine(middle, strategy, Delays.custom([5, 2, 0]), accumulate=accumulate)
        found = train(pipeline, 6)
        pipeline.audit_next()
        return found + train(pipeline, 6), pipeline

    losses, small = trained()
    monkeypatch.setattr(in_place, "SMALL", 0)
    expected, large = trained()
    assert (small._in_place is None, large._in_place) == (small.strategy.exact, None)
    assert losses == expected
    for k, one in small.delayed.items():
        for name, value in one.own_state().items():
            assert torch.equal(value, large.delayed[k].own_state()[name]), name


def test_where_the_last_stage_has_a_delay_its_loss_may_read_its_weights(monkeypatch):
    """They are those of its forward pass, as much as the loss reads of them."""

    def trained():
        torch.manual_seed(0)
        pipeline = engine(nn.Linear(8, 8), "ema-span", Delays.custom([5, 3, 2]))
        last, optimizer = pipeline.stages[-1], optimizer_of(pipeline)
        loss = lambda y, t: F.cross_entropy(y, t) + last.weight.square().sum()  # noqa: E731
        x, y = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 2, 3, 4])
        return [float(pipeline.train_step(x, y, loss, optimizer)[0]) for _ in range(9)]

    losses = trained()
    monkeypatch.setattr(in_place, "SMALL", 0)
    assert losses == trained()


@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_device_with_a_counter_of_its_own_gives_the_same(strategy, compute_dtype, monkeypatch):
    """The form for CUDA graphs, in which no tensor changes its place, run on the CPU."""

    def trained():
        torch.manual_seed(0)
        pipeline = engine(nn.Linear(8, 8), strategy, Delays.custom([3, 2, 0]), compute_dtype=compute_dtype)
        return train(pipeline, 12), pipeline.delayed[0]

    losses, stage = trained()
    monkeypatch.setattr(weights, "HOSTS", ())
    expected, other = trained()
    assert losses == expected
    assert (stage.table is None, other.table is None) == (True, False)
    for name, value in {"latest": other.latest, "line": other.line, **other.state}.items():
        assert torch.equal({"latest": stage.latest, "line": stage.line, **stage.state}[name], value), name


def test_a_graph_of_an_earlier_step_is_not_run_back_with_other_weights():
    pipeline = engine(nn.Linear(8, 8), "stash", Delays.custom([2, 2, 2]))
    train(pipeline)
    outputs = load(pipeline).forward(torch.randn(4, 8))
    pipeline.end()
    train(pipeline)
    with pytest.raises(UserError, match="modified by an inplace operation"):
        outputs.sum().backward()


@dataclass(frozen=True)
class Noting(Latest):
    """Notes the weights that are recalled."""

    asked: list[torch.Tensor] = field(default_factory=list)

    def backward(self, state, latest, used):
        self.asked.append(latest)
        return latest.clone()


def test_weights_are_recalled_when_a_backward_pass_asks_once_per_stage():
    """The input of the first stage needs no gradient: nobody asks for its weights."""
    history = Noting()
    stages = [nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(3)]
    pipeline = PipelineEngine([nn.Linear(8, 8), *stages], Delays.custom([3, 2, 1, 1]), history)
    loss = load(pipeline).forward(torch.randn(4, 8)).sum()
    assert not history.asked
    loss.backward()
    expected = [pipeline.delayed[k].latest for k in (3, 2, 1)]
    assert [one.data_ptr() for one in history.asked] == [one.data_ptr() for one in expected]
