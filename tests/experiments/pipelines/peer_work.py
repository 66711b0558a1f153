"""What the tests run in other processes."""

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from experiments.pipelines.measure import first_batches
from experiments.pipelines.trainers import (
    AsynchronousTrainer,
    DataParallelTrainer,
    Job,
    SynchronousTrainer,
    make_trainer,
)
from layerpipe2.errors import UserError
from layerpipe2.lab import networks
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.planning.variants import DATA_PARALLEL, Variant
from layerpipe2.stages import partition

SHAPE, CLASSES, BATCH = (1, 4, 4), 3, 8
CONFIG = RunConfig(network="even", width=4, schedule="constant")
JOB = Job(CONFIG, {1: (0,), 2: (0, 5)})


def units():
    torch.manual_seed(0)
    layers = networks.build("mlp", input_shape=SHAPE, num_classes=CLASSES, width=6)
    del layers[1]  # eight are left, which four stages share evenly
    return [layer.double() for layer in layers]


def batches():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, BATCH, *SHAPE, dtype=torch.float64, generator=generator)
    return list(zip(x, torch.randint(CLASSES, (4, BATCH), generator=generator), strict=True))


def make_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


def trainer(variant, layers):
    form = Variant.parse(variant)
    stages = partition(layers, len(layers) // form.stages(dist.get_world_size()))
    if form.kind in DATA_PARALLEL:
        return DataParallelTrainer(form.kind, stages[0], make_optimizer)
    if form.is_runtime:
        return AsynchronousTrainer(stages, form, make_optimizer, 0)
    return SynchronousTrainer(form.kind, stages, batches()[0][0], form.micro_batches, make_optimizer)


class Columns(torch.nn.Module):
    """A layer whose outputs lie in memory column by column, as a transformer's embedding of patches may leave them."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x).t().contiguous().t()


def train(variants, peers):
    """Variant -> losses, this rank's stages as lists of weights, and bytes sent per mini-batch.

    Then, of ``peers``, the losses if no stage's outputs are contiguous; buffers of batch normalisation; refusals.
    """
    found = {}
    for variant in variants:
        mine = trainer(variant, units())
        losses = mine.train(batches())
        weights = {k: [whole(p) for p in stage.parameters()] for k, stage in mine.stages.items()}
        found[variant] = losses, weights, mine.sent_bytes
    by_columns = {variant: trainer(variant, [*map(Columns, units())]).train(batches()) for variant in peers}
    return found, by_columns, buffers_after("gpipe/2", 3), refusals()


def whole(parameter):
    """A copy, of a sharded one put together."""
    value = parameter.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).clone()


def buffers_after(variant, steps):
    layers = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 6), torch.nn.BatchNorm1d(6)).double()]
    peer = trainer(variant, [*layers, torch.nn.Linear(6, CLASSES).double()])
    peer.train(batches()[:steps])
    return {k: dict(stage.named_buffers()) for k, stage in peer.stages.items()}


def refusals():
    lines = []
    cases = [("gpip", 2, 2), ("gpipe", 4, 2), ("gpipe", 2, 3), ("1f1b", 2, 1), ("ddp", 1, 1)]
    for name, count, micro_batches in cases:
        try:
            if name == "ddp":
                trainer(name, units()).train([(torch.zeros(3, 16),) * 2])
            SynchronousTrainer(name, partition(units(), 8 // count), batches()[0][0], micro_batches, make_optimizer)
        except UserError as error:
            lines.append(str(error))
    return lines


def several(calls):
    """What each of some functions gives on this rank, one after the other."""
    return [work(*arguments) for work, *arguments in calls]


def train_job(variant, count):
    """Losses of :data:`JOB` that this rank knows after some mini-batches, and threads of this process."""
    data, found = first_batches(CONFIG, count)
    losses = make_trainer(variant, JOB, data, found[0][0], dist.get_world_size()).train(found)
    return losses, torch.get_num_threads()


def misbehave(how, bad):
    """Rank ``bad`` raises, dies or hangs, and the others wait for it; without such a rank: its number and process."""
    if dist.get_rank() == bad:
        if how == "raises":
            raise UserError("no such thing; give another")
        if how == "breaks":
            raise ZeroDivisionError
        if how == "dies":
            os._exit(3)
        time.sleep(600)
    dist.barrier()
    return dist.get_rank(), os.getpid()


def show_and_hang(folder):
    """Write this process' number to the folder, whole, then wait for its end."""
    part = Path(folder) / f"part{dist.get_rank()}"
    part.write_text(str(os.getpid()))
    part.rename(part.with_name(f"rank{dist.get_rank()}"))
    time.sleep(600)
