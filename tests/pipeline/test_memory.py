"""What the processes really hold is what the cost model says, and nothing is left of a mini-batch."""

import gc
import weakref

import pytest
import torch
from torch import nn

from layerpipe2 import make_strategy
from layerpipe2.pipeline.memory import memory_table
from layerpipe2.pipeline.strategy import PipelineStrategy
from layerpipe2.planning.costs import stage_costs
from tests.pipeline import processes
from tests.pipeline.fits import loaders, pipelined, stage_alone, trainer
from tests.sampling import sampled

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


@pytest.mark.parametrize("law", sampled(["layerpipe2", "pipedream"], ["layerpipe2"]))
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
