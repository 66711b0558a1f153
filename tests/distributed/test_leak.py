"""Graphs that have been run back, or never will be, are gone."""

import gc
import weakref

import pytest
import torch
from torch import nn

from layerpipe2 import make_history
from layerpipe2.distributed.process_stage import ProcessStage

BATCHES, DELAY = 6, 2


class Block(nn.Module):
    """An activation in front of the weight: its graph has a part that leads to no weight."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(torch.tanh(x).relu())


@pytest.mark.parametrize("split_backward", [False, True])
def test_nothing_is_left_of_a_mini_batch(split_backward):
    stage = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Tanh(), Block(), nn.Sigmoid())
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
    local = ProcessStage(stage, 1, DELAY, make_history("ema-window"), optimizer, seed=0, split_backward=split_backward)
    outputs: list[weakref.ref] = []
    for layer in stage.modules():
        layer.register_forward_hook(lambda _, given, output: outputs.append(weakref.ref(output)))
    for batch in range(BATCHES):
        local.forward(torch.randn(4, 8))
        if batch >= DELAY:
            local.backward(torch.randn(4, 8))
            local.finish_backward()
            local.update()
    assert len(local.in_flight) == DELAY
    local.in_flight.clear()
    gc.collect()
    assert len(outputs) >= BATCHES * 6
    assert [output().shape for output in outputs if output() is not None] == []
