"""What the benchmark compares, each behind one interface: plain and data parallel training, torch's pipelines, ours.

A trainer is one process' part of a training: ``stages``, number -> module with its latest weights, of the stages that
this process has; ``optimizer``, of their parameters; ``sent_bytes`` per mini-batch; ``train(batches)``, which returns
the losses it knows.

torch's synchronous pipelines (``torch.distributed.pipelining``) and its data parallel training run as torch ships them,
on the same stages, batches and processes. They update once per mini-batch, hence train exactly like one process does
(networks with batch normalisation excepted: its statistics are those of a part). Time stamps have the words of
``layerpipe2.pipeline.worker_loop``, with ``weights`` for gradients of weights computed apart and for the update; what
lies between them is waiting, messages and torch's own administration.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise, product
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import pipelining
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from layerpipe2.engine.epoch import Totals
from layerpipe2.engine.stage import Stage
from layerpipe2.errors import UserError
from layerpipe2.lab.data import Data
from layerpipe2.lab.networks.layers import convolution, output_linear
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_units, optimizer_factory
from layerpipe2.pipeline.in_flight import InFlight
from layerpipe2.pipeline.links import Watch
from layerpipe2.pipeline.neighbours import Endpoint, Neighbours
from layerpipe2.pipeline.timeline import SpanRecorder
from layerpipe2.pipeline.worker_loop import WorkerLoop
from layerpipe2.planning.variants import DATA_PARALLEL, TORCH_PIPELINES, Variant, group_starts
from layerpipe2.stages import partition_at
from layerpipe2.strategies import make_strategy

Batch = tuple[Tensor, Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

PEERS: dict[str, Any] = {
    "gpipe": pipelining.ScheduleGPipe,
    "1f1b": pipelining.Schedule1F1B,
    "interleaved": pipelining.ScheduleInterleaved1F1B,
    "zero-bubble": pipelining.ScheduleInterleavedZeroBubble,
    "zero-bubble-v": pipelining.ScheduleZBVZeroBubble,
}
"""A key of ``TORCH_PIPELINES`` -> torch's schedule."""
_PASSES = {
    "forward_one_chunk": "forward",
    "backward_one_chunk": "backward",
    "backward_weight_one_chunk": "weights",
}


class SynchronousTrainer:
    """This process' part of a synchronous pipeline, with the cross entropy; needs an initialised process group.

    Args:
        name: a key of :data:`PEERS`.
        stages: the whole network, as many per process as the schedule wants, the same weights on every rank; the stages
            of other ranks are not kept.
        x: a mini-batch (B, ...) for its shape and type.
        micro_batches: parts of a mini-batch; B must be a multiple.
        make_optimizer: parameters of this rank -> optimizer.
        timeline: takes time stamps, if wanted; else torch's passes are left as they are.

    Raises:
        UserError: on an unknown name, or numbers that do not fit each other.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[nn.Module],
        x: Tensor,
        micro_batches: int,
        make_optimizer: MakeOptimizer,
        timeline: SpanRecorder | None = None,
    ) -> None:
        schedule, processes = _checked(name, stages, x, micro_batches), list(range(dist.get_world_size()))
        back = processes[::-1] if schedule is pipelining.ScheduleZBVZeroBubble else processes
        ranks = (processes + back)[: len(stages)]  # of the stages
        shapes = _shapes(stages, x[: len(x) // micro_batches])
        self.stages = {k: stage for k, stage in enumerate(stages) if ranks[k] == dist.get_rank()}
        parts = [
            # Without its shapes torch would run a batch to find them, which changes batch normalisation's statistics.
            pipelining.PipelineStage(
                _Sends(stage), k, len(stages), x.device, input_args=shapes[k], output_args=shapes[k + 1]
            )
            for k, stage in self.stages.items()
        ]
        self._timeline, self._batch = timeline, 0
        for part, (method, what) in product(parts if timeline else (), _PASSES.items()):
            setattr(part, method, self._timed(getattr(part, method), what, part.stage_index))
        single = schedule in (pipelining.ScheduleGPipe, pipelining.Schedule1F1B)
        self._schedule = schedule(parts[0] if single else parts, micro_batches, loss_fn=F.cross_entropy)
        self.optimizer = make_optimizer(p for stage in self.stages.values() for p in stage.parameters())
        self._first, self._last = 0 in self.stages, len(stages) - 1 in self.stages
        self.sent_bytes = micro_batches * _sent(ranks, shapes)

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """One update per mini-batch; mean losses on the rank that holds the last stage, elsewhere nothing."""
        losses = []
        for x, y in batches:
            parts = list[Tensor]()
            target = y if self._last else None
            self._schedule.step(*((x,) if self._first else ()), target=target, losses=parts, return_outputs=False)
            with self._span("weights", next(iter(self.stages))):
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            self._batch += 1
            if parts:
                losses.append(torch.stack(parts).detach().mean().item())
        return losses

    def _timed(self, work: Callable[..., Any], what: str, stage: int) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self._span(what, stage):
                return work(*arguments, **keywords)

        return timed

    def _span(self, what: str, stage: int) -> AbstractContextManager[None]:
        return self._timeline.span(what, stage, self._batch) if self._timeline else nullcontext()


class _Sends(nn.Module):
    """A stage whose outputs are contiguous, as torch wants its messages."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stage(x)
        return out.contiguous()


def _checked(name: str, stages: Sequence[nn.Module], x: Tensor, micro_batches: int) -> Any:
    """The schedule, if all fits."""
    if name not in PEERS:
        raise UserError(f"unknown synchronous pipeline {name!r}; choose one of {', '.join(PEERS)}")
    processes = dist.get_world_size()
    needed, least = TORCH_PIPELINES[name] * processes, processes if name == "1f1b" else 1
    if len(stages) != needed:
        raise UserError(f"{name} on {processes} processes needs {needed} stages, not {len(stages)}")
    if micro_batches < least or len(x) % micro_batches:
        raise UserError(
            f"{name} on {processes} processes cannot make {micro_batches} micro-batches of {len(x)} "
            f"samples; give at least {least}, and a batch size that is a multiple"
        )
    return PEERS[name]


def _shapes(stages: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """The input of every stage and the output of the last, without values."""
    shapes = [x.detach().to("meta")]
    for stage in stages:
        shapes.append(copy.deepcopy(_Sends(stage)).to("meta")(shapes[-1]).detach().requires_grad_())
    return shapes


def _sent(ranks: Sequence[int], shapes: Sequence[Tensor]) -> int:
    """Bytes that this rank sends per micro-batch: activations forward and, as large, gradients back."""
    edges = [(edge, y.nbytes) for edge, y in zip(pairwise(ranks), shapes[1:-1], strict=True) if edge[0] != edge[1]]
    return sum(size * edge.count(dist.get_rank()) for edge, size in edges)


class DataParallelTrainer:
    """This process' part, with the cross entropy; needs an initialised process group.

    Updates are those of one process: the mean of the parts' gradients is the gradient of the whole mini-batch (networks
    with batch normalisation excepted: its statistics are those of a part).

    Args:
        kind: ``ddp``: every process has all weights; ``fsdp``: a shard of each unit's, which the processes gather
            before a pass through the unit, and whose gradients they reduce to the shards.
        network: the same weights on every rank.
        make_optimizer: parameters of this rank -> optimizer.
    """

    def __init__(self, kind: str, network: nn.Sequential, make_optimizer: MakeOptimizer) -> None:
        processes, size = dist.get_world_size(), sum(p.nbytes for p in network.parameters())
        self.stages, self._forward = {0: network}, DistributedDataParallel(network) if kind == "ddp" else network
        if kind == "fsdp":
            mesh = init_device_mesh("cpu", (processes,))
            for unit in (*network, network):
                fully_shard(unit, mesh=mesh)
        self.optimizer = make_optimizer(network.parameters())
        # Around a ring of n, a gather or a reduction sends (n - 1) n-ths of the bytes, and an all-reduce is both. FSDP
        # gathers a unit in the forward and again in the backward pass.
        self.sent_bytes = (2 if kind == "ddp" else 3) * size * (processes - 1) // processes

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """One update per mini-batch; this rank's losses, each the mean of its part.

        Raises:
            UserError: on a mini-batch that the processes cannot share evenly.
        """
        rank, processes, losses = dist.get_rank(), dist.get_world_size(), []
        for x, y in batches:
            if len(x) % processes:
                what = f"{processes} processes cannot share {len(x)} samples evenly"
                raise UserError(f"{what}; give a batch size that is a multiple")
            part, target = x.chunk(processes)[rank], y.chunk(processes)[rank]
            loss = F.cross_entropy(self._forward(part), target)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return losses


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
