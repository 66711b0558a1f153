"""When each process of a variant did what: real time stamps of a few mini-batches."""

from __future__ import annotations

from itertools import islice

import torch.distributed as dist

from experiments.pipelines.measure import endless, load_data
from experiments.pipelines.variants import Job, make_trainer
from layerpipe2.distributed.timeline import Event, Timeline


def measure_timeline(job: Job, variant: str, batches: int) -> list[Event]:
    """Train on ``batches`` mini-batches; this rank's events, filling and draining of the pipeline included."""
    data, loaders = load_data(job.config)
    found = list(islice(endless(loaders["train"]), batches))
    timeline = Timeline()
    trainer = make_trainer(variant, job, data, found[0][0], dist.get_world_size(), timeline)
    dist.barrier()
    trainer.train(found)
    return timeline.events
