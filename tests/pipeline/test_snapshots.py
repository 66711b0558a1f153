"""Copies of a stage's buffers: one of those that stay as they are, a new one after every change."""

import torch
from torch import nn

from layerpipe2.pipeline.snapshots import StageSnapshots
from tests.pipeline.fits import stage_alone


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.tensor([1.0, torch.nan, 0.0]).expand(2, 3))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x):
        self.count += 1
        return x * self.weight


def test_a_buffer_is_copied_again_only_if_it_has_changed():
    masked = Masked()
    passes = stage_alone(masked, 0, 2, "stash", torch.optim.SGD(masked.parameters(), lr=0.1))
    snapshots = StageSnapshots(passes, resumable=False)
    for batch in range(3):
        snapshots.take(batch)
        passes.forward(torch.ones(2, 3))
    taken = [snapshots._taken[batch].buffers for batch in range(3)]
    assert taken[0]["mask"] is taken[1]["mask"] is taken[2]["mask"]
    assert [int(buffers["count"]) for buffers in taken] == [0, 1, 2]
    passes.stage.module.mask = -passes.stage.module.mask
    passes.stage.module.count = passes.stage.module.count.float()
    snapshots.take(3)
    torch.testing.assert_close(
        snapshots._taken[3].buffers["mask"][0], torch.tensor([-1.0, torch.nan, -0.0]), equal_nan=True
    )
    assert torch.signbit(snapshots._taken[3].buffers["mask"][0, 2])
    assert snapshots._taken[3].buffers["count"].dtype == torch.float32
