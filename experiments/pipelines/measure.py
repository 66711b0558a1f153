"""What is measured of a variant, in fresh processes: speed, time to a target accuracy, layer times, timelines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from experiments.pipelines.peers import Batch
from experiments.pipelines.trainers import Job, Trainer, build_units, make_trainer
from layerpipe2.data import BatchLoader, Data, load
from layerpipe2.distributed.timeline import Event, Timeline
from layerpipe2.history import make_history
from layerpipe2.planning import StageWork
from layerpipe2.planning.profiling import profile
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.inputs import make_loaders
from layerpipe2.runs.optim import optimizer_factory


def measure_speed(job: Job, variant: str, batches: int, warmup: int) -> dict[str, Any]:
    """Train on ``batches`` mini-batches after ``warmup`` others, with a filling and a draining of the pipeline each.

    Returns:
        On every rank: ``seconds`` per mini-batch between two barriers; ``peak_rss``, by how many bytes the resident
        memory was larger at its peak than before the network was built; ``sent_bytes`` per mini-batch; ``losses``.
    """
    data, loaders = load_data(job.config)
    found = list(islice(endless(loaders["train"]), warmup + batches))
    before = _status("VmRSS")
    trainer = make_trainer(variant, job, data, found[0][0], dist.get_world_size())
    trainer.train(found[:warmup])
    start = _barrier()
    losses = trainer.train(found[warmup:])
    seconds = (_barrier() - start) / batches
    peak = _status("VmHWM") - before
    return {"seconds": seconds, "peak_rss": peak, "sent_bytes": trainer.sent_bytes, "losses": losses}


def measure_timeline(job: Job, variant: str, batches: int) -> list[Event]:
    """Train on ``batches`` mini-batches; this rank's events, filling and draining of the pipeline included."""
    data, loaders = load_data(job.config)
    found = list(islice(endless(loaders["train"]), batches))
    timeline = Timeline()
    trainer = make_trainer(variant, job, data, found[0][0], dist.get_world_size(), timeline)
    dist.barrier()
    trainer.train(found)
    return timeline.events


def measure_accuracy(job: Job, variant: str, target: float, epochs: int) -> dict[str, Any]:
    """Train until the validation accuracy reaches ``target`` after an epoch, at most ``epochs``.

    Returns:
        On rank 0, elsewhere nothing: ``seconds`` of training, evaluation left out, ``accuracies`` after each epoch
        and whether the target was ``reached``.
    """
    data, loaders = load_data(job.config)
    x = next(iter(loaders["train"]))[0]
    trainer = make_trainer(variant, job, data, x, dist.get_world_size())
    seconds, accuracies = 0.0, list[float]()
    for epoch in range(epochs):
        loaders["train"].set_epoch(epoch)
        batches = list(loaders["train"])
        start = _barrier()
        trainer.train(batches)
        seconds += _barrier() - start
        accuracies.append(_accuracy(trainer, job, data, loaders["validation"]))
        if accuracies[-1] >= target:
            break
    return {"seconds": seconds, "accuracies": accuracies, "reached": accuracies[-1] >= target}


def measure_layers(
    config: RunConfig, batch_size: int, update: bool, strategy: str, repeats: int
) -> tuple[StageWork, ...]:
    """Seconds per unit for mini-batches of ``batch_size``, with or without update; with a strategy's history if any."""
    data, loaders = load_data(config)
    x = next(iter(loaders["train"]))[0][:batch_size]
    optimizer, history = optimizer_factory(config) if update else None, make_history(strategy) if strategy else None
    return profile(build_units(config, data), x, optimizer, history=history, repeats=repeats)


def load_data(config: RunConfig) -> tuple[Data, dict[str, BatchLoader]]:
    """The data set, and its loaders by name."""
    data = load(config.dataset, Path(config.data_root) if config.data_root else None)
    return data, make_loaders(config, data, torch.device("cpu"))


def endless(loader: BatchLoader) -> Iterator[Batch]:
    """Mini-batches of epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def _barrier() -> float:
    dist.barrier()
    return time.perf_counter()


def _accuracy(trainer: Trainer, job: Job, data: Data, loader: BatchLoader) -> float:
    """Share of right answers of the whole network, put together from the stages of all ranks, on every rank."""
    mine = {k: stage.state_dict() for k, stage in trainer.stages.items()}
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    weights = {k: state for part in gathered for k, state in part.items()}
    layers = [state for k in sorted(weights) for state in _by_layer(weights[k])]
    network = torch.nn.Sequential(*build_units(job.config, data)).eval()
    for layer, state in zip(network, layers, strict=True):
        layer.load_state_dict(state)
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in loader)
    return right / len(loader.y)


def _by_layer(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """The state of a stage, an ``nn.Sequential`` of units, as one state per unit."""
    layers = dict[str, dict[str, Any]]()
    for name, value in stage.items():
        number, _, rest = name.partition(".")
        layers.setdefault(number, {})[rest] = value
    return [layers[number] for number in sorted(layers, key=int)]


def _status(field: str) -> int:
    """A value of /proc/self/status in bytes: VmRSS, resident memory now, or VmHWM, its peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
