"""Memory of a variant, measured in its processes: torch's peak, and bytes per stage beside those of the cost model."""

from __future__ import annotations

import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity

from experiments.pipelines.asynchronous import AsynchronousTrainer
from experiments.pipelines.measure import endless, load_data
from experiments.pipelines.trainers import Job, make_trainer
from layerpipe2.distributed.memory import StageMemory
from layerpipe2.errors import UserError
from layerpipe2.planning import stage_costs
from layerpipe2.planning.variants import MEMORY_KINDS, Variant


def measure_peak(job: Job, variant: str, batches: int) -> int:
    """Most bytes that torch had in use at one time on this rank: network, gradients, optimizer, activations.

    Read from torch's own profiler, which slows training down: not to be timed.
    """
    data, loaders = load_data(job.config)
    found = list(islice(endless(loaders["train"]), batches))
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer = make_trainer(variant, job, data, found[0][0], dist.get_world_size())
        trainer.train(found)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return max(int(event["args"]["Total Allocated"]) for event in events if event["name"] == "[memory]")


def measure_stages(job: Job, variant: str) -> list[dict[str, Any]]:
    """Train until all memory is in use; bytes of every kind, as measured and as modelled.

    The model: parameters once, as much for the momentum of the optimizer, (delay + 1) times what one mini-batch keeps
    for its backward pass, and the copies of the weights that the strategy wants (``layerpipe2.planning``).

    Returns:
        On rank 0 a row per stage: stage, rank, delay, and for every kind its bytes and ``modelled_`` bytes.

    Raises:
        UserError: if the variant isn't one of the runtime's.
    """
    form, processes = Variant.parse(variant), dist.get_world_size()
    if not form.is_runtime:
        raise UserError(f"bytes per stage are known of variants async and exact only, not of {variant!r}")
    data, loaders = load_data(job.config)
    found = list(islice(endless(loaders["train"]), 2 * processes + 2))
    trainer = make_trainer(variant, job, data, found[0][0], processes)
    assert isinstance(trainer, AsynchronousTrainer)
    trainer.train(found)
    rows: list[StageMemory] = [None] * processes  # type: ignore[list-item]  # filled by the next line
    dist.all_gather_object(rows, StageMemory.of(trainer.local, dist.get_rank()))
    costs = stage_costs(
        job.cut(variant, data, processes), data.input_shape, form.strategy, form.convention, job.config.batch_size
    )
    model = {
        "parameters": costs.parameter_bytes,
        "optimizer": costs.parameter_bytes,
        "activations": costs.activation_bytes,
        "history": costs.history_bytes,
    }
    return [_row(row) | {f"modelled_{kind}": model[kind][row.stage] for kind in MEMORY_KINDS} for row in rows]


def _row(row: StageMemory) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("stage", "rank", "delay", *MEMORY_KINDS)}
