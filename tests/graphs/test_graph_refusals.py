"""Graphs, fan-outs, networks and loaders that can't be are refused in one line."""

import numpy as np
import pytest
import torch

from layerpipe2.errors import UserError
from layerpipe2.graphs import Graph, SampledLoader
from layerpipe2.graphs.networks import build
from tests.graphs.made import random_graph

GRAPH, NODES, FAN_OUT = random_graph(), np.arange(10, 190), (4, 3, 2)
FEATURES, LABELS, EDGE = np.zeros((3, 1), np.float32), np.zeros(3, np.int64), np.array([0, 1])
ROWS = np.array([0, 1, 2, 2])


def edges(sources, targets, features=FEATURES, labels=LABELS):
    return Graph.from_edges("g", sources, targets, features, labels)


def loader(**options):
    return SampledLoader(GRAPH, NODES, FAN_OUT, 25, **options)


WRONG = {
    "an edge names node 3; nodes are numbered from 0 to 2": lambda: edges(np.array([0, 3]), EDGE),
    "an edge names node -1": lambda: edges(EDGE, np.array([0, -1])),
    "two rows of as many integers": lambda: edges(EDGE[:1], EDGE),
    "two rows": lambda: edges(EDGE * 1.5, EDGE),
    "has no nodes": lambda: edges(EDGE[:0], EDGE[:0], FEATURES[:0], LABELS[:0]),
    "a row per node": lambda: edges(EDGE, EDGE, FEATURES[:2], LABELS),
    "features of float64": lambda: edges(EDGE, EDGE, FEATURES.astype(float), LABELS),
    "labels are no classes": lambda: edges(EDGE, EDGE, FEATURES, LABELS - 1),
    "rowptr doesn't rise": lambda: Graph("g", np.array([0, 2, 1, 2]), EDGE, FEATURES, LABELS),
    "rowptr and col aren't int64": lambda: Graph("g", ROWS[:3], EDGE, FEATURES, LABELS),
    "a row of col doesn't rise": lambda: Graph("g", np.array([0, 2, 2, 2]), EDGE[::-1].copy(), FEATURES, LABELS),
    "names node 3;": lambda: Graph("g", ROWS, EDGE + 2, FEATURES, LABELS),
    "features of float64; give": lambda: Graph("g", ROWS, EDGE, [[0.0]] * 3, LABELS),
    "features are no array": lambda: Graph("g", ROWS, EDGE, [[0.0], [1.0, 2.0], [3.0]], LABELS),
    "labels are no classes;": lambda: Graph("g", ROWS, EDGE, FEATURES, ["a", "b", "c"]),
    "no finite float32": lambda: edges(EDGE, EDGE, FEATURES * np.float32(np.nan), LABELS),
    "no finite float16": lambda: edges(EDGE, EDGE, FEATURES + 70_000, LABELS).in_half_precision(),
    "fan-out is 5": lambda: GRAPH.checked_fan_out(5),
    "fan-out is '21'": lambda: GRAPH.checked_fan_out("21"),
    "is np.float64(2.5); give an integer from 1 to": lambda: GRAPH.checked_fan_out(np.array([2.5])),
    "is True; give an integer from 1 to": lambda: GRAPH.checked_fan_out([True]),
    "fan-out is []": lambda: GRAPH.checked_fan_out([]),
    "is 0; give an integer from 1 to": lambda: GRAPH.checked_fan_out((5, 0)),
    "is 1000; give an integer from 1 to": lambda: GRAPH.checked_fan_out((1000,)),
    "has no edges": lambda: edges(EDGE[:0], EDGE[:0]).checked_fan_out((1,)),
    "names node 200; nodes are numbered from 0 to 199": lambda: SampledLoader(GRAPH, np.array([0, 200]), FAN_OUT, 2),
    "names node -1": lambda: SampledLoader(GRAPH, np.array([-1]), FAN_OUT, 2),
    "give a row of at least one node number": lambda: SampledLoader(GRAPH, np.array([], int), FAN_OUT, 2),
    "a node stands there twice": lambda: SampledLoader(GRAPH, np.array([3, 3]), FAN_OUT, 2),
    "batch size is 0": lambda: SampledLoader(GRAPH, NODES, FAN_OUT, 0),
    "fan-out in graph random, whose largest degree is": lambda: SampledLoader(GRAPH, NODES, (0,), 2),
    "number of threads is -1": lambda: loader(threads=-1),
    "batches ahead is 1; give an integer from 2": lambda: loader(threads=2, ahead=1),
    "loader's seed is 1.5": lambda: loader(seed=1.5),
    "loader's device is 'gpu'; give cpu or cuda": lambda: loader(device="gpu"),
    "loader's device is 'meta'; give cpu or cuda": lambda: loader(device="meta"),
    "loader's device is None; give cpu or cuda": lambda: loader(device=None),
    "loader's device is cuda:99, but torch sees": lambda: loader(device="cuda:99"),
    "unknown graph network 'sag'; did you mean 'sage'?": lambda: build("sag", GRAPH, FAN_OUT),
    "width is 0": lambda: build("sage", GRAPH, FAN_OUT, width=0),
    "dropout is 1": lambda: build("sage", GRAPH, FAN_OUT, dropout=1),
    "dropout is 'x'; give a number": lambda: build("sage", GRAPH, FAN_OUT, dropout="x"),
    "can't number the nodes": lambda: build("sage", GRAPH, FAN_OUT)[0](torch.zeros(3, 13, dtype=torch.bfloat16)),
    "has 9 columns where a layer of 4 features reads 4": lambda: build("gin", GRAPH, (4,))[0](torch.zeros(3, 9)),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_is_refused_in_one_line(message):
    with pytest.raises(UserError) as error:
        WRONG[message]()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
