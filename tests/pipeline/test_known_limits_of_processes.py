"""What several processes do otherwise than one, unseen, with an example of each; the list is in docs."""

from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from tests.pipeline import processes
from tests.pipeline.fits import dense, fit, merged, one_by_one, pipelined, run


class By(nn.Linear):
    """Outputs times what ``factor`` makes of the layer."""

    def __init__(self, factor):
        super().__init__(12, 12)
        self.factor, self.passes, self.generator = factor, 0, torch.Generator().manual_seed(1)

    def forward(self, x):
        self.passes += 1
        return super().forward(x) * self.factor(self)


class Dropping(nn.Linear):
    """Also in evaluation."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.5)


class Counting:
    """A loss that grows with its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, outputs, targets):
        self.calls += 1
        return F.cross_entropy(outputs, targets) * (1 + 0.1 * self.calls)


class Late(torch.optim.SGD):
    """Clips by the norm of all gradients, from its fifth step on."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        if self.steps > 4:
            nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 0.1)
        return super().step(closure)


class Halving(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if isinstance(batch, list):
            batch[0].mul_(0.5)


def scaled(factor):
    return pipelined([By(factor), *dense()])


WORKS = {
    "an optimizer": fit(lambda: pipelined(dense(), optimizer=partial(Late, lr=0.1))),
    "an attribute": fit(lambda: scaled(lambda layer: 1 + 0.1 * layer.passes)),
    "a generator": fit(lambda: scaled(lambda layer: torch.rand((), generator=layer.generator))),
    "a loss": fit(lambda: pipelined(dense(), loss=Counting(), delays=[5, 3, 1])),
    "dropout in evaluation": fit(lambda: pipelined([*dense(), Dropping(4, 4)])),
    "a callback": fit(lambda: pipelined(dense()), lambda: [Halving()]),
}


def test_differences_that_are_not_seen():
    found = processes.run(one_by_one, 2, {name: (work, {}) for name, work in WORKS.items()})
    for (name, work), own in zip(WORKS.items(), zip(*found, strict=True), strict=True):
        (known, weights), other = run(work), merged(own)
        assert own[0][0] != known or any(not torch.equal(other[n], value) for n, value in weights.items()), name
