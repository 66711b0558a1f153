"""What the benchmark compares, each behind one interface: plain training, torch's pipelines, the asynchronous one.

A variant's name is ``plain``, ``plain/<micro-batches>`` (one process that accumulates the gradients of micro-batches: a
small one may stay in the cache, which is no merit of a pipeline), ``<peer>/<micro-batches>`` as in ``gpipe/4``, or
``async/<strategy>`` as in ``async/stash``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.pipelines.asynchronous import AsynchronousTrainer
from experiments.pipelines.peers import PEERS, Batch, MakeOptimizer, SynchronousTrainer
from layerpipe2 import networks
from layerpipe2.data import ImageData
from layerpipe2.errors import UserError
from layerpipe2.networks.layers import convolution, output_linear
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.optim import optimizer_factory
from layerpipe2.stages import partition_at


class Trainer(Protocol):
    """One process' part of a training.

    Attributes:
        stages: stage number -> module, with its latest weights, for the stages that this process holds.
        sent_bytes: what this process sends per mini-batch.
    """

    stages: dict[int, nn.Module]

    @property
    def sent_bytes(self) -> int:
        """Bytes."""

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """Train on one mini-batch after the other; returns, when all updates are done, the losses it knows."""


@dataclass(frozen=True)
class Job:
    """What all variants train: a configuration, and first units of the stages by number of stages."""

    config: RunConfig
    starts: dict[int, tuple[int, ...]]


def even(input_shape: tuple[int, int, int], num_classes: int, width: int) -> list[nn.Module]:
    """Stem, eight equal 3x3 convolutions of ``width`` channels with ReLU, head: 10 units that halve evenly.

    Without batch normalisation, so that micro-batches compute what the whole batch does.
    """
    pixels = input_shape[1] * input_shape[2]
    channels = (input_shape[0], *[width] * 8)
    units = [nn.Sequential(convolution(n, width, 3), nn.ReLU()) for n in channels]
    return [*units, nn.Sequential(nn.Flatten(), output_linear(width * pixels, num_classes))]


def build_units(config: RunConfig, data: ImageData) -> list[nn.Module]:
    """The units of ``even`` or of a network of ``layerpipe2.networks``, with the weights of the seed."""
    torch.manual_seed(config.seed)
    if config.network == "even":
        return even(data.image_shape, data.num_classes, config.width or 64)
    return networks.build(
        config.network, input_shape=data.image_shape, num_classes=data.num_classes, width=config.width
    )


def stages_of(variant: str, processes: int) -> int:
    """Number of stages that a variant wants on so many processes.

    Raises:
        UserError: on an unknown variant.
    """
    kind, _, detail = variant.partition("/")
    if variant == "plain" or (kind == "plain" and detail.isdecimal() and int(detail)):
        return 1
    if kind == "async" and detail:
        return processes
    if kind in PEERS and detail.isdecimal() and int(detail):
        return PEERS[kind].per_rank * processes
    raise UserError(
        f"unknown variant {variant!r}; give plain, async/STRATEGY, or one of plain, {', '.join(PEERS)} with a "
        "number of micro-batches, as in gpipe/4"
    )


def make_trainer(variant: str, job: Job, data: ImageData, x: Tensor, processes: int) -> Trainer:
    """This process' part of ``variant``; ``x`` is a mini-batch, for its shape."""
    stages = partition_at(build_units(job.config, data), job.starts[stages_of(variant, processes)])
    kind, _, detail = variant.partition("/")
    make_optimizer = optimizer_factory(job.config)
    if kind == "plain":
        return PlainTrainer(stages[0], int(detail or 1), make_optimizer)
    if kind == "async":
        return AsynchronousTrainer(stages, detail, make_optimizer, F.cross_entropy, job.config.seed)
    return SynchronousTrainer(kind, stages, x, int(detail), make_optimizer, F.cross_entropy)


class PlainTrainer:
    """Training in one process, as anybody would write it, with the gradients of ``parts`` micro-batches accumulated."""

    def __init__(self, network: nn.Module, parts: int, make_optimizer: MakeOptimizer) -> None:
        self.stages, self.sent_bytes, self._parts = {0: network}, 0, parts
        self._optimizer = make_optimizer(network.parameters())

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """One update per mini-batch; their losses."""
        losses = []
        for x, y in batches:
            total = 0.0
            for part, target in zip(x.chunk(self._parts), y.chunk(self._parts), strict=True):
                loss = F.cross_entropy(self.stages[0](part), target) * (len(part) / len(x))
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            losses.append(total)
        return losses
