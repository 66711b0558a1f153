"""Graph networks on sampled neighbourhoods train with delayed gradients as the clock-driven reference does."""

import copy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from layerpipe2 import STRATEGIES, Delays, PipelinedModule, make_strategy, partition
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.errors import UserError
from layerpipe2.graphs import SampledLoader
from layerpipe2.graphs.networks import GRAPH_NETWORKS, build
from layerpipe2.strategies import raw_forms
from tests.graphs import layer_reference
from tests.graphs.made import random_graph
from tests.pipeline.fits import assert_equal, assert_same_weights, fit, pipelined
from tests.reference import clock_of, delay_of, run_clocked

FAN_OUT = (4, 3, 2)
GRAPH = random_graph()
NODES = np.arange(160)


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def problem(network):
    torch.manual_seed(1)
    units = [unit.double() for unit in build(network, GRAPH, FAN_OUT, width=6)]
    loader = SampledLoader(GRAPH, NODES, FAN_OUT, 20, shuffle=True, threads=0)
    return partition(units, 1), [(x.double(), y) for x, y in loader]


EVERY = [*(name for name in STRATEGIES if name != "sequential"), *raw_forms()]
SOME = ["stash", "latest", "ema-span", "ema-window-raw", "pair"]
CASES = [("sage", name, "layerpipe2") for name in EVERY]
CASES += [(network, name, "layerpipe2") for network in ("gin", "gat") for name in SOME]
CASES += [(network, "ema-span", "pipedream") for network in GRAPH_NETWORKS]


@pytest.mark.parametrize(("network", "strategy", "convention"), CASES)
def test_delayed_gradients_equal_the_clock_driven_reference(network, strategy, convention):
    stages, batches = problem(network)
    twins = copy.deepcopy(stages)
    chosen = {"strategy": strategy, "convention": convention, "make_optimizer": optimizer}
    expected = run_clocked(twins, batches, lr_of=lambda t: 0.05, **chosen)
    engine = PipelineEngine(stages, Delays.by_law(convention, 3), make_strategy(strategy))
    made = optimizer([p for stage in stages for p in stage.parameters()])
    losses = [float(engine.train_step(x, y, F.cross_entropy, made)[0]) for x, y in batches]
    assert losses == pytest.approx(expected, abs=1e-12)
    assert len(set(losses)) == len(losses) == 8
    for mine, theirs in zip(stages, twins, strict=True):
        for name, value in mine.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0, atol=1e-12)
    assert [delay_of(clock_of(convention)(3, k)) for k in range(3)] == list(engine.delays.per_stage)


@pytest.mark.parametrize("network", GRAPH_NETWORKS)
def test_a_sample_of_all_neighbours_is_the_whole_graph(network):
    """Three layers on the adjacency matrix of the graph give what three sampled layers give for its nodes."""
    full = (GRAPH.largest_degree,) * 3
    torch.manual_seed(1)
    units = [unit.double() for unit in build(network, GRAPH, full, width=6)]
    x = torch.from_numpy(GRAPH.features).double()
    a = torch.zeros(len(x), len(x), dtype=torch.float64)
    for node in range(len(x)):
        a[node, GRAPH.col[GRAPH.rowptr[node] : GRAPH.rowptr[node + 1]]] = 1
    for unit in units:
        rule = layer_reference.RULES[type(unit.convolution).__name__][0]
        x = rule(dict(unit.named_parameters()), x, a)[0]
        x = x if unit.last else x.clamp(min=0)
    for padded in (False, True):
        found, order = [], np.arange(GRAPH.num_nodes)[::-1].copy()
        for table, _ in SampledLoader(GRAPH, order, full, 64, threads=0, padded=padded):
            found.append(torch.nn.Sequential(*units)(table.double()))
        torch.testing.assert_close(torch.cat(found).flip(0), x)


def train(network, threads):
    """All weights after three epochs, and the losses of every mini-batch trained or validated."""
    torch.manual_seed(3)
    losses: list[float] = []

    def loss(outputs, targets):
        value = F.cross_entropy(outputs, targets)
        losses.append(value.item())
        return value

    stages = partition(build(network, GRAPH, FAN_OUT, width=6, dropout=0.2), 1)
    module = PipelinedModule(stages, "layerpipe2", "ema-span", optimizer=optimizer, loss=loss)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    loaders = [
        SampledLoader(GRAPH, nodes, FAN_OUT, 32, shuffle=True, threads=threads) for nodes in (NODES, NODES[:50] + 20)
    ]
    pl.Trainer(max_epochs=3, accelerator="cpu", enable_checkpointing=False, **quiet).fit(module, *loaders)
    return module.state_dict(), losses


@pytest.fixture(scope="module")
def serial():
    torch.set_num_threads(1)
    return train("sage", 0)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_losses_and_weights_are_those_of_the_serial_training(serial, threads):
    weights, losses = train("sage", threads)
    assert losses == serial[1]
    assert_same_weights(weights, serial[0])


@pytest.mark.parametrize("strategy", ["stash", "ema-span"])
def test_several_processes_train_as_one_does(strategy):
    def data(shuffle):
        return lambda: SampledLoader(GRAPH, NODES, FAN_OUT, 48, shuffle=shuffle, threads=2, padded=True)

    work = fit(
        lambda: pipelined(partition(build("sage", GRAPH, FAN_OUT, width=6), 1), strategy),
        data=data(True),
        validation=data(False),
    )
    assert_equal(work, 3)


LARGE = random_graph(2000, 5000)
OTHERS = [(LARGE, 8, (6, 4, 3), other) for other in ((3, 4, 6), (5, 5, 3), (4, 6, 3), (6, 3, 4))]  # of one sum
OTHERS += [(GRAPH, 200, FAN_OUT, other) for other in ((4, 2, 3), (3, 3, 3))]  # all nodes in a mini-batch
HOPS = [(GRAPH, 20, FAN_OUT, other, False) for other in ((4, 3, 1, 1), (2, 2, 3, 2), (4, 5))]


@pytest.mark.parametrize(
    ("graph", "nodes", "right", "other", "padded"), [*((*row, p) for row in OTHERS for p in (False, True)), *HOPS]
)
def test_a_network_of_another_fan_out_is_refused(graph, nodes, right, other, padded):
    x, _ = next(iter(SampledLoader(graph, np.arange(nodes), right, nodes, threads=0, padded=padded)))
    torch.nn.Sequential(*build("sage", graph, right, width=6))(x)
    with pytest.raises(UserError, match="give network and loader the same fan-out, in the same order"):
        torch.nn.Sequential(*build("sage", graph, other, width=6))(x)
