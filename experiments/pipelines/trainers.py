"""What the benchmark compares, each behind one interface: plain and data parallel training, torch's pipelines, ours.

A trainer is one process' part of a training: ``stages``, number -> module with its latest weights, of the stages that
this process has; ``optimizer``, of their parameters; ``sent_bytes`` per mini-batch; ``train(batches)``, which returns
the losses it knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.pipelines.data_parallel import DataParallelTrainer
from experiments.pipelines.peers import Batch, MakeOptimizer, SynchronousTrainer
from layerpipe2.engine.epoch import Totals
from layerpipe2.engine.stage import Stage
from layerpipe2.lab.data import Data
from layerpipe2.lab.networks.layers import convolution, output_linear
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_units, optimizer_factory
from layerpipe2.pipeline.in_flight import InFlight
from layerpipe2.pipeline.links import Watch
from layerpipe2.pipeline.neighbours import Endpoint, Neighbours
from layerpipe2.pipeline.timeline import SpanRecorder
from layerpipe2.pipeline.worker_loop import WorkerLoop
from layerpipe2.planning.variants import DATA_PARALLEL, Variant, group_starts
from layerpipe2.stages import partition_at
from layerpipe2.strategies import make_strategy


@dataclass(frozen=True)
class Job:
    """What all variants train: a configuration, and first units of the stages by number of stages, balanced by time."""

    config: RunConfig
    starts: dict[int, tuple[int, ...]]

    def cut(self, variant: str, data: Data, processes: int) -> list[nn.Sequential]:
        """The stages of a variant, with the weights of the seed."""
        units, form = build_units(self.config, data), Variant.parse(variant)
        stages = form.stages(processes)
        return partition_at(units, group_starts(len(units), stages) if form.groups else self.starts[stages])


def even(input_shape: tuple[int, ...], num_classes: int, width: int) -> list[nn.Module]:
    """Stem, eight equal 3x3 convolutions of ``width`` channels with ReLU, head: 10 units that halve evenly.

    Without batch normalisation, so that micro-batches compute what the whole batch does.
    """
    pixels = input_shape[1] * input_shape[2]
    channels = (input_shape[0], *[width] * 8)
    units = [nn.Sequential(convolution(n, width, 3), nn.ReLU()) for n in channels]
    return [*units, nn.Sequential(nn.Flatten(), output_linear(width * pixels, num_classes))]


def build_units(config: RunConfig, data: Data) -> list[nn.Module]:
    """The units of ``even`` or of a network of ``layerpipe2.lab.networks``, with the weights of the seed."""
    torch.manual_seed(config.seed)
    shape, classes = data.input_shape, data.num_classes
    if config.network == "even":
        return even(shape, classes, config.width or 64)
    return make_units(config, shape, classes)


def make_trainer(
    variant: str, job: Job, data: Data, x: Tensor, processes: int, timeline: SpanRecorder | None = None
) -> Trainer:
    """This process' part of ``variant``; ``x`` is a mini-batch, for its shape; ``timeline`` takes time stamps.

    A variant with threads of its own sets this process' number of threads, for good.

    Raises:
        UserError: on an unknown variant, or one whose numbers do not fit each other.
    """
    form, stages = Variant.parse(variant), job.cut(variant, data, processes)
    make_optimizer = optimizer_factory(job.config)
    if form.kind == "threads":
        torch.set_num_threads(form.threads)
    if form.kind in ("plain", "threads", "independent"):
        return PlainTrainer(stages[0], form.micro_batches, make_optimizer)
    if form.kind in DATA_PARALLEL:
        return DataParallelTrainer(form.kind, stages[0], make_optimizer)
    if form.is_runtime:
        return AsynchronousTrainer(stages, form, make_optimizer, job.config.seed, timeline)
    return SynchronousTrainer(form.kind, stages, x, form.micro_batches, make_optimizer, timeline)


class PlainTrainer:
    """Training in one process, as anybody would write it, with the gradients of ``parts`` micro-batches accumulated."""

    def __init__(self, network: nn.Module, parts: int, make_optimizer: MakeOptimizer) -> None:
        self.stages, self.sent_bytes, self._parts = {0: network}, 0, parts
        self.optimizer = make_optimizer(network.parameters())

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """One update per mini-batch; their losses."""
        losses = []
        for x, y in batches:
            total = 0.0
            for part, target in zip(x.chunk(self._parts), y.chunk(self._parts), strict=True):
                loss = F.cross_entropy(self.stages[0](part), target) * (len(part) / len(x))
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(total)
        return losses


class AsynchronousTrainer:
    """This process' stage of ``layerpipe2.pipeline``, with the cross entropy; needs an initialised process group.

    Args:
        stages, make_optimizer, timeline: as those of :class:`SynchronousTrainer`, with one stage per process.
        form: delays, weight history, whether gradients of weights are computed after that of the input was sent, and
            whether activations are recomputed.
        seed: of the stages' random numbers.

    Attributes:
        local: the stage of this process.

    Raises:
        UserError: on an unknown strategy, or a stage whose backward pass cannot be given other weights.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        form: Variant,
        make_optimizer: MakeOptimizer,
        seed: int,
        timeline: SpanRecorder | None = None,
    ) -> None:
        rank, per_stage = dist.get_rank(), form.delays(len(stages)).per_stage
        module, history = stages[rank], make_strategy(form.strategy)
        self.stages, self.optimizer = {rank: module}, make_optimizer(module.parameters())
        how: dict[str, Any] = {"split_backward": form.split, "recompute_activations": form.recompute}
        step = torch.zeros(1, dtype=torch.int64)
        stage = Stage(module, rank, per_stage[rank], history, step, ahead=True, seed=seed)
        self.local = InFlight(stage, self.optimizer, **how)
        endpoint = Endpoint(rank, len(stages), torch.device("cpu"), timedelta(seconds=60), Watch())
        self._neighbours, self._totals = Neighbours.of(endpoint, per_stage, rank, rank), Totals()
        self._loop = WorkerLoop(
            [self.local], self._neighbours, lambda: next(self._batches), F.cross_entropy, self._totals, timeline
        )

    @property
    def sent_bytes(self) -> int:
        """What this process sends per mini-batch: activation and targets forward, a gradient back."""
        boxes = (self._neighbours.activations_out, self._neighbours.gradients_out)
        return sum(box.capacity for box in boxes if box is not None)

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """Fill the pipeline, one update per mini-batch, drain it; the mean loss on the last rank, elsewhere nothing."""
        found = list(batches)
        self._batches = iter(found)
        self.local.stage.refill()
        self._loop.start(len(found), epoch=len(found))
        for _ in found:
            self._loop.step()
        self._loop.stop()
        return [float(mean) for name, mean in self._totals.take_means().items() if name == "loss"]


Trainer = PlainTrainer | DataParallelTrainer | SynchronousTrainer | AsynchronousTrainer
