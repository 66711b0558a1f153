"""The sampler written to be read: sets, lists and integers of Python. The fast one equals it bit for bit."""

import numpy as np

WORD = 2**64


def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def key_of(seed, epoch, batch):
    key = 0
    for part in (seed, epoch, batch):
        key = mix((key + part + 0x9E3779B97F4A7C15) % WORD)
    return key


def words(key):
    """The random words of 32 bits of a mini-batch, one after the other."""
    number = 0
    while True:
        number += 1
        yield mix((key + number * 0x9E3779B97F4A7C15) % WORD) >> 32


def below(draws, n):
    """One of 0 ... n - 1: the 2**32 words are cut into n equal parts, of which 2**32 mod n words belong to none."""
    while True:
        high, low = divmod(next(draws) * n, 2**32)
        if low >= 2**32 % n:
            return high


def floyd(draws, n, k):
    """Take k of n, every subset equally likely."""
    chosen: list[int] = []
    for j in range(n - k, n):
        one = below(draws, j + 1)
        chosen.append(j if one in chosen else one)
    return chosen


def sample(graph, batch, fan_out, key):
    """All nodes in order of discovery, and for every hop the rows of each node's neighbours."""
    draws, nodes, hops = words(key), list(batch), []
    for k in fan_out:
        rows = []
        for node in list(nodes):
            mine = graph.col[graph.rowptr[node] : graph.rowptr[node + 1]].tolist()
            chosen = mine if len(mine) <= k else [mine[i] for i in floyd(draws, len(mine), k)]
            nodes += [one for one in chosen if one not in nodes]
            rows.append([nodes.index(one) for one in chosen])
        hops.append(rows)
    return nodes, hops


def table(graph, batch, fan_out, key):
    """What a loader gives: features and, of the last hop first, the neighbours' rows."""
    nodes, hops = sample(graph, batch, fan_out, key)
    columns = [graph.features[nodes]]
    for rows, k in reversed(list(zip(hops, fan_out, strict=True))):
        block = np.full((len(nodes), k), -2.0, np.float32)
        for i, row in enumerate(rows):
            block[i] = row + [-1] * (k - len(row))
        columns.append(block)
    return np.concatenate(columns, 1)
