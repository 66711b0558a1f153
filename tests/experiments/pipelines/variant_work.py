"""What the tests of variants run in other processes."""

from itertools import islice

import torch
import torch.distributed as dist

from experiments.pipelines.measure import endless, load_data
from experiments.pipelines.trainers import make_trainer


def batches(job, count):
    """The first mini-batches."""
    return list(islice(endless(load_data(job.config)[1]["train"]), count))


def train(job, variant, count):
    """Losses that this rank knows after some mini-batches."""
    found = batches(job, count)
    data = load_data(job.config)[0]
    return make_trainer(variant, job, data, found[0][0], dist.get_world_size()).train(found)


def train_and_count(job, variant, count):
    """Threads of this process after some mini-batches, and their losses."""
    losses = train(job, variant, count)
    return torch.get_num_threads(), losses
