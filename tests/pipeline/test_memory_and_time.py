"""What the processes hold and when they compute, and activations that are computed again instead of being held."""

import gc
import json
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from layerpipe2 import UserError, make_strategy
from layerpipe2.pipeline.memory import memory_table
from layerpipe2.pipeline.snapshots import StageSnapshots
from layerpipe2.pipeline.strategy import PipelineStrategy
from layerpipe2.pipeline.timeline import Span, SpanRecorder, chrome_trace
from layerpipe2.planning.costs import stage_costs
from tests.pipeline import processes
from tests.pipeline.fits import Case, assert_same_weights, loaders, pipelined, stage_alone, trainer

PADDING = 64 * 4  # bytes per parameter and copy, at most


def network():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU())
    second, third = nn.Sequential(nn.Linear(256, 256), nn.ReLU()), nn.Sequential(nn.Linear(256, 256), nn.Tanh())
    return [first, second, third, nn.Linear(256, 5)]


def memory_of(rows):
    """Memory of the stages after 15 updates of 8 samples: strategy, law, settings of the pipeline."""
    found = []
    for strategy, law, options in rows:
        pipeline = PipelineStrategy(**options)
        trainer(pipeline).fit(pipelined(network(), strategy, law=law), *loaders())
        found.append(pipeline.memory)
    return found


HELD = [("stash", {}), ("stash", {"recompute_activations": True}), ("latest", {}), ("ema-window", {})]


@pytest.mark.parametrize("law", ["layerpipe2", "pipedream"])
def test_the_cost_model_tells_what_the_processes_hold(law):
    found = processes.run(memory_of, 4, [(strategy, law, options) for strategy, options in HELD])
    assert all(one == found[0] for one in found)  # every process knows
    for (strategy, options), rows in zip(HELD, found[0], strict=True):
        model = stage_costs(network(), (1, 8, 8), strategy, law, batch_size=8, recomputes=bool(options))
        assert [row.parameters for row in rows] == list(model.parameter_bytes)
        assert [row.optimizer for row in rows] == list(model.parameter_bytes)
        assert [row.activations for row in rows] == list(model.activation_bytes)
        for row, history, stage in zip(rows, model.history_bytes, network(), strict=True):
            copies = make_strategy(strategy).copies(row.delay)
            most = history + copies * len(list(stage.parameters())) * PADDING + 64 * (row.delay + 1)  # decays' table
            assert history <= row.history <= most
            assert row.delay or row.history == 0


def test_the_table_says_it_and_versions_are_kept_for_a_checkpoint_only():
    rows = [("latest", "layerpipe2", {"resumable": resumable}) for resumable in (False, True)]
    found = processes.run(memory_of, 2, rows)[0]
    assert [(row.stage, row.rank, row.delay) for row in found[0]] == [(0, 0, 6), (1, 0, 4), (2, 1, 2), (3, 1, 0)]
    lines = memory_table(found[0]).splitlines()
    titles = "stage rank delay parameters optimizer activations history checkpoint (kB)"
    assert lines[0].split() == titles.split()
    assert lines[-1].split()[1] == f"{sum(row.parameters for row in found[0]) / 1e3:.1f}"
    for copies, rows in enumerate(found):
        for row in rows:
            weights = row.delay * row.parameters * copies
            assert weights <= row.checkpoint <= weights + copies * row.delay * 4 * PADDING


class Block(nn.Module):
    """An activation in front of the weight: its graph has a part that leads to no weight."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(torch.tanh(x).relu())


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("ema-window", {}), ("ema-window", {"split_backward": True}), ("stash", {"recompute_activations": True})],
)
def test_graphs_that_were_run_back_or_never_will_be_are_gone(strategy, options):
    batches, delay = 6, 2
    stage = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Tanh(), Block(), nn.Sigmoid())
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
    local = stage_alone(stage, 1, delay, strategy, optimizer, **options)
    outputs: list[weakref.ref] = []
    for layer in stage.modules():
        layer.register_forward_hook(lambda _, given, output: outputs.append(weakref.ref(output)))
    for batch in range(batches):
        local.forward(torch.randn(4, 8))
        if batch >= delay:
            if local.must_recompute:
                local.recompute()
            local.backward(torch.randn(4, 8))
            local.finish_backward()
            local.update()
    assert len(local.in_flight) == delay
    local.in_flight.clear()
    gc.collect()
    assert len(outputs) >= batches * 6
    assert [output().shape for output in outputs if output() is not None] == []


def events(case, limit=10_000, **options):
    strategy = PipelineStrategy(timeline=SpanRecorder(limit), **options)
    case(strategy)
    return strategy.events


def test_every_task_of_every_stage_is_there_in_order():
    ranks = processes.run(events, 2, Case())[0]
    for rank, found in enumerate(ranks):
        assert {event.stage for event in found} == {2 * rank, 2 * rank + 1}
        for what in ("forward", "backward", "weights"):
            for stage in (2 * rank, 2 * rank + 1):
                mine = [event for event in found if (event.what, event.stage) == (what, stage)]
                assert [event.batch for event in mine] == list(range(15))
                assert all(a.start < a.stop <= b.start for a, b in pairwise(mine))


def test_no_more_than_the_limit_is_kept():
    assert [len(found) for found in processes.run(events, 2, Case(), 7)[0]] == [7, 7]


def test_time_stamps_tell_what_is_computed_again():
    ranks = processes.run(events, 2, Case("stash", network="residual", epochs=1), recompute_activations=True)[0]
    last = [event for rank in ranks for event in rank]
    again = {(e.stage, e.batch): e for e in last if e.what == "recompute"}
    assert {batch for _, batch in again} == set(range(5))
    assert 0 < len({stage for stage, _ in again}) <= max(event.stage for event in last)  # the last one has no delay
    for event in last:
        if event.what == "backward" and (event.stage, event.batch) in again:
            assert again[event.stage, event.batch].stop <= event.start


def test_chrome_trace():
    ranks = [[Span("forward", 0, 3, 5_000, 9_000)], [Span("wait", 1, 2, 4_000, 5_000)]]
    found = json.loads(chrome_trace(ranks))["traceEvents"]
    assert [e["args"]["name"] for e in found if e["ph"] == "M"] == ["rank 0", "rank 1"]
    assert {"name": "forward 3", "cat": "forward", "ph": "X", "pid": 0, "tid": 0, "ts": 1.0, "dur": 4.0} in found
    assert json.loads(chrome_trace([[]]))["traceEvents"][0]["pid"] == 0


DELAY = 2


def local_stage(*layers, strategy="stash", **options):
    stage = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
    return stage_alone(stage, 1, DELAY, strategy, optimizer, **options)


def train(local, between=lambda batch: None, loss=None):
    """Five mini-batches, a hook after each update; the gradients of the inputs."""
    snapshots, generator = StageSnapshots(local, resumable=False), torch.Generator().manual_seed(1)
    found = []
    for batch in range(5 + DELAY):
        snapshots.take(batch)
        local.forward(torch.randn(4, 8, generator=generator), loss)
        if batch < DELAY:
            continue
        if local.must_recompute:
            with snapshots.before(batch - DELAY):
                local.recompute()
        found.append(local.backward(torch.ones(4, 8) if loss is None else None))
        local.finish_backward()
        snapshots.keep_version(batch - DELAY, 100)
        local.update()
        between(batch - DELAY)
    return found


class Counting(nn.Module):
    """Reads a buffer that it writes, in a network with a hidden layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count.add_(1)
        return self.linear(x.tanh()) * self.count.item()


@pytest.mark.parametrize("loss", [None, lambda y: y.square().sum()], ids=["gradient comes back", "loss in flight"])
def test_a_pass_that_depends_on_buffers_is_the_same_again(loss):
    made = []
    for again in (False, True):
        torch.manual_seed(0)
        local = local_stage(Counting(), nn.BatchNorm1d(8), nn.Dropout(), nn.Sigmoid(), recompute_activations=again)
        gradients, stage = train(local, loss=loss), local.stage
        made.append((gradients, stage.module.state_dict(), stage.stream.state_dict(), local.peak_bytes))
    (plain, weights, stream, most), (again, *state, least) = made
    assert all(map(torch.equal, plain, again))
    assert_same_weights(state[0], weights)
    assert all(map(torch.equal, stream, state[1]))
    # The loss runs once, so the stage that has it keeps all of its activations.
    assert most == ((DELAY + 1) * (least - DELAY * 4 * 8 * 4) if loss is None else least)


def test_what_keeps_no_more_than_its_input_is_not_computed_again():
    local = local_stage(nn.Linear(8, 8), recompute_activations=True)
    local.forward(torch.zeros(4, 8))
    assert not local.must_recompute


class Failing(nn.Module):
    """Fails when mini-batch 1 comes back: passes 0 to 2, 0 again, 3, 1 again."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        if self.passes == 6:
            raise ZeroDivisionError("in the forward pass")
        return x


def test_an_error_while_computing_again_leaves_the_latest_weights():
    local = local_stage(*tail(), Failing(), recompute_activations=True)
    seen = []
    with pytest.raises(ZeroDivisionError):
        train(local, lambda batch: seen.append({k: v.clone() for k, v in local.stage.module.state_dict().items()}))
    assert len(seen) == 1
    assert_same_weights(local.stage.module.state_dict(), seen[0])


class Own(nn.Module):
    """Draws random numbers that no stream knows."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return x * self.generator.random()


def tail():
    return nn.Linear(8, 8), nn.Tanh(), nn.Tanh()


def drop_more(dropout):
    dropout.p = 0.5


@pytest.mark.parametrize(
    ("layers", "change", "message"),
    [
        ([nn.Hardtanh(inplace=True), *tail()], None, "stage 1 changes its input in place .*train without recompute_ac"),
        ([*tail(), Own()], None, "stage 1 computed other outputs when its forward pass ran again"),
        ([*tail(), nn.Dropout(0.2)], drop_more, "a callback that changes how it comp"),
    ],
    ids=["in place", "own random numbers", "callback"],
)
def test_a_pass_that_is_not_the_same_again_is_refused(layers, change, message):
    local = local_stage(*layers, recompute_activations=True)
    with pytest.raises(UserError, match=message):
        train(local, lambda batch: change(layers[-1]) if change is not None and batch == 1 else None)


@pytest.mark.parametrize("strategy", ["latest", "ema-window", "update-window"])
def test_weights_that_are_not_those_of_the_forward_pass_are_refused(strategy):
    message = f"with the same weights, which strategy '{strategy}' doesn't keep .*; give strategy 'stash'"
    with pytest.raises(UserError, match=message):
        local_stage(*tail(), strategy=strategy, recompute_activations=True)
