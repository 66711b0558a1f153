"""Small graphs to be tested with."""

import numpy as np

from layerpipe2.graphs import Graph


def random_graph(nodes=200, edges=500, classes=3, seed=0, width=4):
    """Some nodes are isolated; the largest degree is about a dozen."""
    generator = np.random.default_rng(seed)
    ends = generator.integers(nodes - nodes // 10, size=(2, edges))
    features = generator.standard_normal((nodes, width)).astype(np.float32)
    return Graph.from_edges("random", *ends, features, generator.integers(classes, size=nodes))
