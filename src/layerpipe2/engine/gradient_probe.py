"""What would other strategies recall, and where would their gradients point? Logged along a training that stashes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from layerpipe2.engine.execution import StagedModule
from layerpipe2.engine.probe import ReconstructionProbe, updates_before
from layerpipe2.engine.replay import Replay, delayed_of
from layerpipe2.lightning import pl

PROBED = ("latest", "ema-lsq", "pair")
"""Strategies that are measured if nothing else is asked for."""


class Recalled(NamedTuple):
    """How good the weights of one strategy are at one stage and update.

    Attributes:
        stage: from 0, the input side.
        strategy: its name.
        recall_error: as the probe's, scalar: 0 is exact, 1 no better than the latest weights.
        gradient_cosine: between the gradient with these weights and that with ``W(t - d)``, scalar: 1 is the same
            direction. All delayed stages have the strategy's weights at once. 0 where the gradient overflows.
    """

    stage: int
    strategy: str
    recall_error: Tensor
    gradient_cosine: Tensor


class GradientProbe(ReconstructionProbe):
    """The probe of the recalled weights, and of the gradients that a backward pass with them gives.

    Before every ``every_n_steps``-th update it sends the mini-batch of that update through a copy of the network: once
    forward, and once backward per strategy. Training isn't touched, random generators included. What it finds is logged
    for that update, as ``probe/ema-lsq/recall_error/stage0`` and ``probe/ema-lsq/gradient_cosine/stage0``. Loggers
    write what falls on the ``Trainer``'s ``log_every_n_steps``: let ``every_n_steps`` be a multiple of it. A stage is
    left out in the probe's first ``2 d`` updates, in which the averages start. That of ``probe_every`` replaces probes
    that the ``Trainer`` has.

    Memory: the extra copies of the strategies' averages (latest 0, ema-lsq 1, pair 2) all the time, and the copy of the
    network with one mini-batch's activations while it measures.

    Args:
        strategies: names of those to compare.
        every_n_steps: distance between two measurements, in updates.

    Raises:
        UserError: as the probe's, and if a stage can't be copied.
    """

    def __init__(self, strategies: Sequence[str] = PROBED, every_n_steps: int = 100) -> None:
        super().__init__(strategies, every_n_steps)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure before the update whose number ``every_n_steps`` divides."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        module = cast(StagedModule, pl_module)
        step = updates_before(module, batch_idx)
        if (step + 1) % self.every_n_steps == 0:
            for one in self.measured(module, step, *module.batch_format.pair(batch)):
                self.note(module, step, one)

    def note(self, module: StagedModule, step: int, found: Recalled) -> None:
        """Log one measurement, made before update number ``step`` (from 0)."""
        for what in ("recall_error", "gradient_cosine"):
            name = f"probe/{found.strategy}/{what}/stage{found.stage}"
            module.log(name, getattr(found, what), on_step=True, on_epoch=False)

    def measured(self, module: StagedModule, step: int, x: Tensor, y: Tensor) -> Iterator[Recalled]:
        """Each strategy at each stage that was full ``d`` updates before update ``step``, which has ``(x, y)``."""
        stages = delayed_of(module.engine)
        full = [k for k, stage in stages.items() if self.started(k, step, stage.delay)]
        if not full:
            return
        with pl.utilities.seed.isolate_rng(), torch.enable_grad():
            replay = Replay(module, x, y)
            exact = replay.gradients()
            gradients = {name: replay.gradients(self.recalled(name, stages)) for name in self.strategies}
        for k in full:
            for name in self.strategies:
                error = self._series[k, name].error(stages[k])
                yield Recalled(k, name, error, cosine(gradients[name][k], exact[k]))


def cosine(gradient: Tensor, exact: Tensor) -> Tensor:
    """Return the cosine of two gradients (N,): NaN where the exact one is zero, 0 where the other overflows."""
    norm, true = gradient.norm(), exact.norm()
    found: Tensor = gradient @ exact / (norm * true)
    return torch.zeros_like(norm) if true > 0 and not torch.isfinite(norm) else found
