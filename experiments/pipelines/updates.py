"""Updates to a target loss: simulated trainings, whose updates are those of the processes to the last bits.

DDP and torch's pipelines update like sequential training (the tests hold them to 1e-12), the asynchronous pipeline like
its simulation; so what an update brings depends neither on the machine nor on the link, and is trained once.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from experiments.pipelines.measure import first_batches, held_out
from experiments.pipelines.settings import check_choices
from experiments.pipelines.trainers import build_units
from experiments.processes import workers
from layerpipe2.delays import Delays
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import optimizer_factory
from layerpipe2.lab.runs.records import Row, fingerprint, write_csv
from layerpipe2.lab.runs.validation import Checked, Positive, Several
from layerpipe2.lab.runs.yaml_file import read_yaml
from layerpipe2.stages import partition_at
from layerpipe2.strategies import make_strategy

DESIGN = Path(__file__).with_name("time_to_loss.yaml")
SEQUENTIAL = "sequential"
RUNS = ("network", "width", "batch_size", "strategy", "lr", "seed", "part", "updates", "most", "loss", "setting")
MEASURED = ("seconds.csv", "checks.csv")
"""Files that are measured for the updates in the same folder."""
TUNED = ("network", "strategy", "lr", "updates", "missed", "at_end", "chosen")
Count = Annotated[int, Field(ge=1)]


class Network(Checked):
    """A network, how it is trained, and the loss that it is to reach. Raises UserError naming the setting."""

    network: str
    width: Count
    batch_size: Count
    dataset: str
    optimizer: Literal["sgd", "adamw"]
    rates: Several[Positive]
    starts: Several[int]
    updates: Count
    every: Count
    held_out: Count
    target: Positive
    target_updates: Count

    def config(self, lr: float, seed: int) -> RunConfig:
        """One training; raises UserError on what a run doesn't allow."""
        same = {name: getattr(self, name) for name in ("network", "width", "batch_size", "dataset", "optimizer")}
        return RunConfig(schedule="constant", lr=lr, seed=seed, **same)

    @property
    def setting(self) -> str:
        """What a training depends on until it stops, beside strategy, rate and seed, in short."""
        return fingerprint(self.model_dump(mode="json", exclude={"rates", "target_updates", "updates"}))[:12]


class Design(Checked):
    """What is compared: the file ``time_to_loss.yaml``. Raises UserError naming the setting."""

    processes: Count
    gigabits: Annotated[tuple[Positive, ...], Field(strict=False)]
    tuning_seeds: Several[int]
    seeds: Several[int]
    averages: Several[str]
    variants: Several[str]
    networks: Annotated[tuple[Network, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        check_choices(self.variants)
        return self

    @classmethod
    def read(cls) -> Design:
        """The committed one."""
        return cls(**read_yaml(DESIGN))

    def quick(self) -> Design:
        """A few small trainings that all reach their target at once: shows that it works, measures nothing."""
        small = {"width": 8, "updates": 4, "every": 2, "held_out": 8, "target": 1000.0}
        networks = tuple(net.copy_with(rates=net.rates[:1], **small) for net in self.networks)
        return self.copy_with(tuning_seeds=self.tuning_seeds[:1], seeds=self.seeds[:1], networks=networks)

    @property
    def strategies(self) -> tuple[str, ...]:
        """Name all strategies that are tuned."""
        return (SEQUENTIAL, "stash", *self.averages)


def losses(net: Network, strategy: str, lr: float, seed: int, target: float) -> list[float]:
    """Train; the held-out loss after every ``net.every`` updates, until one is at most ``target`` or not finite."""
    torch.set_num_threads(1)
    config = net.config(lr, seed)
    data, batches = first_batches(config, net.updates)
    stages = partition_at(build_units(config, data), (0,) if strategy == SEQUENTIAL else net.starts)
    engine = PipelineEngine(stages, Delays.by_law("layerpipe2", len(stages)), make_strategy(strategy))
    optimizer = optimizer_factory(config)(p for stage in stages for p in stage.parameters())
    examples, found = held_out(config, net.held_out), list[float]()
    for number, (x, y) in enumerate(batches, 1):
        engine.train_step(x, y, F.cross_entropy, optimizer)
        if number % net.every == 0:
            found.append(loss_of(stages, *examples))
            if not target < found[-1] < math.inf:
                break
    return found


def loss_of(stages: Iterable[nn.Module], x: Tensor, y: Tensor) -> float:
    """Return the loss of the latest weights on these examples."""
    network = nn.Sequential(*stages).eval()
    with torch.no_grad():
        loss = F.cross_entropy(network(x), y).item()
    network.train()
    return loss


def run(net: Network, strategy: str, lr: float, seed: int, part: str) -> Row:
    """A row of ``updates.csv``: the updates to the target, or None where it isn't reached; the last loss."""
    found = losses(net, strategy, lr, seed, net.target)
    reached = found[-1] <= net.target
    row = {name: getattr(net, name) for name in ("network", "width", "batch_size", "setting")}
    row |= {"strategy": strategy, "lr": lr, "seed": seed, "part": part, "most": net.updates}
    row |= {"updates": net.every * len(found) if reached else None}
    return row | {"loss": found[-1] if math.isfinite(found[-1]) else None}


def train_all(design: Design, folder: Path, jobs: int) -> tuple[list[Row], list[Row]]:
    """Tune, choose, confirm; what ``folder`` already has with the same settings isn't trained again.

    Returns:
        The rows of ``updates.csv`` and ``tuned.csv``, both written there; the former after every training.
    """
    done = {_key(row): row for row in read_rows(folder / "updates.csv")}
    nets = {net.network: net for net in design.networks}
    rates = [(net, strategy, lr) for net in nets.values() for strategy in design.strategies for lr in net.rates]
    tuning = [(*rate, seed, "tuning") for rate in rates for seed in design.tuning_seeds]
    rows = _train(tuning, done, folder, jobs)
    tuned = [row for net in nets.values() for row in _tuned(net, design, rows)]
    best = [(nets[row["network"]], row["strategy"], row["lr"]) for row in tuned if row["chosen"]]
    rows += _train([(*one, seed, "confirmation") for one in best for seed in design.seeds], done, folder, jobs)
    write_csv(folder / "updates.csv", RUNS, rows)
    write_csv(folder / "tuned.csv", TUNED, tuned)
    return rows, tuned


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run, if any; numbers as numbers."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        rows: list[Row] = list(csv.DictReader(file))
    for row in rows:
        row |= {name: int(row[name]) for name in ("width", "batch_size", "seed", "most")} | {"lr": float(row["lr"])}
        row["updates"] = int(row["updates"]) if row["updates"] else None
        row["loss"] = float(row["loss"]) if row["loss"] else None
    return rows


def _train(tasks: Sequence[Any], done: dict[Any, Row], folder: Path, jobs: int) -> list[Row]:
    """The rows of all tasks, in their order; those that aren't ``done`` are trained, added and written."""
    names = [(net.setting, strategy, lr, seed, part) for net, strategy, lr, seed, part in tasks]
    missing = [task for task, name in zip(tasks, names, strict=True) if not _valid(done.get(name), task[0])]
    if missing:
        for stale in MEASURED:
            (folder / stale).unlink(missing_ok=True)
        with workers(jobs) as pool:
            for number, future in enumerate(as_completed([pool.submit(run, *task) for task in missing]), 1):
                row = future.result()
                done[_key(row)] = row
                write_csv(folder / "updates.csv", RUNS, done.values())
                print(f"{number}/{len(missing)}", *(row[k] for k in RUNS[:-1]), flush=True)
    return [done[name] for name in names]


def _valid(row: Row | None, net: Network) -> bool:
    """Whether a training of so many updates at most would end alike."""
    if row is None:
        return False
    return bool(row["most"] == net.updates if row["updates"] is None else row["updates"] <= net.updates)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("setting", "strategy", "lr", "seed", "part"))


def _tuned(net: Network, design: Design, rows: Iterable[Row]) -> list[Row]:
    """A row per strategy with its best rate: fewest missed targets, then fewest updates on the average."""
    found = []
    for strategy in design.strategies:
        scores = []
        for lr in net.rates:
            same = (net.setting, strategy, lr, "tuning")
            mine = [r["updates"] for r in rows if (r["setting"], r["strategy"], r["lr"], r["part"]) == same]
            reached = [n for n in mine if n is not None]
            scores.append((len(mine) - len(reached), statistics.mean(reached) if reached else math.inf, lr))
        missed, updates, lr = min(scores)
        head = {"network": net.network, "strategy": strategy, "lr": lr, "missed": missed, "chosen": True}
        end = {min(net.rates): "lower", max(net.rates): "upper"}.get(lr, "") if len(net.rates) > 1 else ""
        found.append(head | {"updates": updates if updates < math.inf else None, "at_end": end})
    averages = [row for row in found if row["strategy"] in design.averages]
    best = min(averages, key=lambda row: (row["missed"], row["updates"] or math.inf))
    for row in averages:
        row["chosen"] = row is best
    return found
