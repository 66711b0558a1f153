"""Measurements of a variant, in fresh processes: speed, memory, whole trainings, times of units, timelines."""

import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity

from experiments.hosts import Namespaces
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.trainers import AsynchronousTrainer, Batch, Job, Trainer, build_units, make_trainer
from layerpipe2.errors import UserError
from layerpipe2.lab.data import BatchLoader, Data, load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_loaders, optimizer_factory
from layerpipe2.pipeline.memory import StageMemory
from layerpipe2.pipeline.timeline import Span, SpanRecorder
from layerpipe2.planning import StageWork
from layerpipe2.planning.costs import stage_costs
from layerpipe2.planning.predict import Predictor, profiled
from layerpipe2.planning.variants import MEMORY_KINDS, Variant


def measure_speed(job: Job, variant: str, batches: int, warmup: int) -> dict[str, Any]:
    """Train on ``batches`` mini-batches after ``warmup`` others, with a filling and a draining of the pipeline each.

    Returns:
        On every rank: ``seconds`` per mini-batch between two barriers; ``peak_rss``, by how many bytes the resident
        memory was larger at its peak than before the network was built; ``sent_bytes`` per mini-batch.
    """
    data, found = first_batches(job.config, warmup + batches)
    before = _status("VmRSS")
    trainer = make_trainer(variant, job, data, found[0][0], dist.get_world_size())
    trainer.train(found[:warmup])
    start = _barrier()
    trainer.train(found[warmup:])
    networks = dist.get_world_size() if Variant.parse(variant).kind == "independent" else 1
    seconds = (_barrier() - start) / (batches * networks)
    return {"seconds": seconds, "peak_rss": _status("VmHWM") - before, "sent_bytes": trainer.sent_bytes}


def seconds_per_batch(
    job: Job, variant: str, processes: int, work: tuple[int, int], hosts: Namespaces | None, gigabits: float | None
) -> float:
    """What :func:`measure_speed` gives for a mini-batch on the slowest rank; ``work`` is its last two arguments.

    With ``gigabits`` every process has a host, and sends so much per second at most; else all are on this one.
    """
    places: Sequence[str] = ()
    if hosts is not None and gigabits is not None:
        hosts.limit(gigabits)
        places = hosts.names
    found = run_ranks(measure_speed, Variant.parse(variant).ranks(processes), job, variant, *work, places=places)
    return float(max(rank["seconds"] for rank in found))


def measure_timeline(job: Job, variant: str, batches: int) -> list[Span]:
    """Train on ``batches`` mini-batches; this rank's events, filling and draining of the pipeline included."""
    data, found = first_batches(job.config, batches)
    timeline = SpanRecorder()
    trainer = make_trainer(variant, job, data, found[0][0], dist.get_world_size(), timeline)
    dist.barrier()
    trainer.train(found)
    return timeline.events


def measure_training(job: Job, variant: str, updates: int, examples: int) -> dict[str, float]:
    """Make so many updates at a stretch, with one filling and one draining of the pipeline.

    Returns:
        On every rank: ``seconds`` between two barriers, and the :func:`held_out` ``loss`` after them.
    """
    data, found = first_batches(job.config, updates)
    trainer = make_trainer(variant, job, data, found[0][0], dist.get_world_size())
    start = _barrier()
    trainer.train(found)
    seconds = _barrier() - start
    network, (x, y) = _network(trainer, job.cut(variant, data, dist.get_world_size())), held_out(job.config, examples)
    with torch.no_grad():
        return {"seconds": seconds, "loss": F.cross_entropy(network(x), y).item()}


def measure_layers(config: RunConfig, wanted: tuple[int, bool, str, bool, int], repeats: int) -> tuple[StageWork, ...]:
    """Seconds per unit, of what is wanted of a :data:`layerpipe2.planning.predict.Profile`."""
    data, ((x, _),) = first_batches(config, 1)
    return profiled(build_units(config, data), x, optimizer_factory(config), repeats)(*wanted)


def measure_peak(job: Job, variant: str, batches: int) -> dict[str, int]:
    """What torch holds on this rank, in bytes.

    Read from torch's own profiler, which slows training down: not to be timed.

    Returns:
        ``peak``, most that was in use at one time; and of it the ``parameters`` and, after these mini-batches, the
        state of the ``optimizer`` and the weight ``history``. The rest are gradients, activations and messages.
    """
    data, found = first_batches(job.config, batches)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer = make_trainer(variant, job, data, found[0][0], dist.get_world_size())
        trainer.train(found)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    peak = max(int(event["args"]["Total Allocated"]) for event in events if event["name"] == "[memory]")
    states = [v for state in trainer.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    weights = [p for stage in trainer.stages.values() for p in stage.parameters()]
    history = StageMemory.of(trainer.local, 0).history if isinstance(trainer, AsynchronousTrainer) else 0
    return {"peak": peak, "parameters": _here(weights), "optimizer": _here(states), "history": history}


def measure_stages(job: Job, variant: str) -> list[dict[str, Any]]:
    """Train until all memory is in use; bytes of every kind, as measured and as modelled.

    The model: parameters once, as much for the momentum of the optimizer, (delay + 1) times what one mini-batch keeps
    for its backward pass (recomputed: once that and delay inputs), and the copies of the weights that the strategy
    wants (``layerpipe2.planning``).

    Returns:
        A row per stage: stage, rank, delay, and for every kind its bytes and ``modelled_`` bytes.

    Raises:
        UserError: if the variant isn't one of the runtime's.
    """
    form, processes = Variant.parse(variant), dist.get_world_size()
    if not form.is_runtime:
        raise UserError(f"bytes per stage are known of variants async and exact only, not of {variant!r}")
    data, found = first_batches(job.config, 2 * processes + 2)
    trainer = make_trainer(variant, job, data, found[0][0], processes)
    assert isinstance(trainer, AsynchronousTrainer)
    trainer.train(found)
    memory, stages = StageMemory.of(trainer.local, dist.get_rank()), job.cut(variant, data, processes)
    how = (form.strategy, form.convention, job.config.batch_size)
    costs = stage_costs(stages, data.input_shape, *how, recomputes=form.recompute)
    model = (costs.parameter_bytes, costs.parameter_bytes, costs.activation_bytes, costs.history_bytes)
    measured = {name: getattr(memory, name) for name in ("stage", "rank", "delay", *MEMORY_KINDS)}
    modelled = {f"modelled_{kind}": of[memory.stage] for kind, of in zip(MEMORY_KINDS, model, strict=True)}
    return _gathered(measured | modelled)


def first_batches(config: RunConfig, count: int) -> tuple[Data, list[Batch]]:
    """The data set and the first mini-batches of training, epoch after epoch."""
    data, loaders = _load(config)

    def endless() -> Iterator[Batch]:
        for epoch in itertools.count():
            loaders["train"].set_epoch(epoch)
            yield from loaders["train"]

    return data, list(itertools.islice(endless(), count))


def held_out(config: RunConfig, examples: int) -> Batch:
    """So many validation examples, at most: those of the seed, whatever is trained."""
    x, y = next(iter(_load(config)[1]["validation"]))
    return x[:examples], y[:examples]


def _load(config: RunConfig) -> tuple[Data, dict[str, BatchLoader]]:
    data = load(config.dataset, Path(config.data_root) if config.data_root else None)
    return data, make_loaders(config, data, torch.device("cpu"))


def _here(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors on this rank, of sharded ones the part that is here."""
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)


def _barrier() -> float:
    dist.barrier()
    return time.perf_counter()


def _gathered(mine: Any) -> list[Any]:
    """What every rank gives, on every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


def _network(trainer: Trainer, stages: list[torch.nn.Sequential]) -> torch.nn.Sequential:
    """The whole network, put together in ``stages`` from those of all ranks, to be evaluated; on every rank."""
    for part in _gathered({k: stage.state_dict() for k, stage in trainer.stages.items()}):
        for k, state in part.items():
            stages[k].load_state_dict(state)
    return torch.nn.Sequential(*stages).eval()


def _status(field: str) -> int:
    """A value of /proc/self/status in bytes: VmRSS, resident memory now, or VmHWM, its peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def predictor(config: RunConfig, processes: int, repeats: int, strategy: str | None = "") -> Predictor:
    """Predicts times of ``config`` on so many processes; ``repeats`` steps of each unit are timed."""

    def profile(size: int, update: bool, strategy: str, split: bool, threads: int) -> tuple[StageWork, ...]:
        wanted = (size, update, strategy, split, threads)
        found: tuple[StageWork, ...] = run_ranks(measure_layers, 1, config, wanted, repeats)[0]
        return found

    return Predictor(profile, config.batch_size, processes, strategy)
