"""The layers of graph networks written out with dense matrices, forward and back, for the clock-driven reference.

``a`` (n, N) has a row per destination and a column per node: 1 where the one hears of the other.
"""

import torch
from torch import Tensor

from layerpipe2.graphs.networks import SampledLayer
from tests import reference

Weights = dict[str, Tensor]


def forward(layer, w, table):
    end = layer.features + layer.k
    x, block, rest = table[:, : layer.features], table[:, layer.features : end].long(), table[:, end:]
    n = sum(1 for row in block.tolist() if row[0] != -2)
    a = torch.zeros(n, len(x), dtype=x.dtype)
    for i in range(n):
        a[i, [j for j in block[i].tolist() if j >= 0]] = 1
    y, kept = RULES[type(layer.convolution).__name__][0](w, x, a)
    if layer.last:
        return y, (kept, table.shape, None)
    return torch.cat([y.clamp(min=0), rest[:n]], 1), (kept, table.shape, y > 0)


def backward(layer, w, kept, gy):
    inner, shape, positive = kept
    if positive is not None:
        gy = gy[:, : positive.shape[1]] * positive
    gx, gradients = RULES[type(layer.convolution).__name__][1](w, inner, gy)
    whole = torch.zeros(shape, dtype=gx.dtype)
    whole[:, : layer.features] = gx
    return whole, gradients


def sage_forward(w, x, a):
    a = a / a.sum(1, keepdim=True).clamp(min=1)
    mean = a @ x
    y = (
        mean @ w["convolution.lin_l.weight"].T
        + w["convolution.lin_l.bias"]
        + x[: len(a)] @ w["convolution.lin_r.weight"].T
    )
    return y, (x, a, mean)


def sage_backward(w, kept, gy):
    x, a, mean = kept
    gx = a.T @ (gy @ w["convolution.lin_l.weight"])
    gx[: len(a)] += gy @ w["convolution.lin_r.weight"]
    left = {"convolution.lin_l.weight": gy.T @ mean, "convolution.lin_l.bias": gy.sum(0)}
    return gx, left | {"convolution.lin_r.weight": gy.T @ x[: len(a)]}


def gin_forward(w, x, a):
    total = x[: len(a)] + a @ x
    hidden = (total @ w["convolution.nn.0.weight"].T + w["convolution.nn.0.bias"]).clamp(min=0)
    return hidden @ w["convolution.nn.2.weight"].T + w["convolution.nn.2.bias"], (a, total, hidden)


def gin_backward(w, kept, gy):
    a, total, hidden = kept
    gh = (gy @ w["convolution.nn.2.weight"]) * (hidden > 0)
    gt = gh @ w["convolution.nn.0.weight"]
    gx = a.T @ gt
    gx[: len(a)] += gt
    first = {"convolution.nn.0.weight": gh.T @ total, "convolution.nn.0.bias": gh.sum(0)}
    return gx, first | {"convolution.nn.2.weight": gy.T @ hidden, "convolution.nn.2.bias": gy.sum(0)}


def gat_forward(w, x, a):
    a = a.clone()
    a[range(len(a)), range(len(a))] = 1  # everyone hears of itself
    h = x @ w["convolution.lin.weight"].T
    score = h[: len(a)] @ w["convolution.att_dst"].flatten()
    score = score[:, None] + h @ w["convolution.att_src"].flatten()
    e = torch.where(score > 0, score, 0.2 * score)
    attention = torch.where(a > 0, e, -torch.inf).softmax(1)
    return attention @ h + w["convolution.bias"], (x, h, score, attention)


def gat_backward(w, kept, gy):
    x, h, score, attention = kept
    n = len(attention)
    ga = gy @ h.T
    gs = attention * (ga - (attention * ga).sum(1, keepdim=True)) * score.new_tensor([0.2, 1.0])[(score > 0).long()]
    source, target = gs.sum(0), gs.sum(1)
    gh = attention.T @ gy + source[:, None] * w["convolution.att_src"].flatten()
    gh[:n] += target[:, None] * w["convolution.att_dst"].flatten()
    gradients = {
        "convolution.att_src": (source @ h).view(1, 1, -1),
        "convolution.att_dst": (target @ h[:n]).view(1, 1, -1),
        "convolution.bias": gy.sum(0),
        "convolution.lin.weight": gh.T @ x,
    }
    return gh @ w["convolution.lin.weight"], gradients


RULES = {
    "SAGEConv": (sage_forward, sage_backward),
    "GINConv": (gin_forward, gin_backward),
    "GATConv": (gat_forward, gat_backward),
}
reference.FURTHER[SampledLayer] = (forward, backward)
