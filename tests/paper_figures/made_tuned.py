"""Tables of a tuned experiment made by hand, as ``experiments.collect`` writes them. Not measurements."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from paper_figures.records.tuned import TunedRecords

STAGES, SEEDS, RATES = (3, 5), (0, 1, 2, 3, 4), (0.05, 0.1)
STRATEGIES = ("stash", "latest", "ema-window", "ema-span", "ema-span-raw")
WARM = (3, ("latest", "ema-span"))
BASE = {"sequential": 76.0, "stash": 75.5, "latest": 70.0, "ema-window": 72.0, "ema-span": 75.45, "ema-span-raw": 74.0}
NOISE = (0.3, -0.2, 0.1, -0.25, 0.05)  # of a seed, shared by all strategies
JITTER = (0.04, -0.06, 0.05, -0.02, -0.01)  # of a run


class Run(NamedTuple):
    """A final run."""

    stages: int
    strategy: str
    seed: int
    warm: bool = False


Accuracy = Callable[[Run], float | None]
CELLS = [(1, "sequential"), *((stages, strategy) for stages in STAGES for strategy in STRATEGIES)]
RUNS = [
    *(Run(*cell, seed) for seed in SEEDS for cell in CELLS),
    *(Run(WARM[0], strategy, seed, True) for seed in SEEDS for strategy in WARM[1]),
]


def usual(run: Run) -> float:
    """Test accuracy in per cent: EMA span as good as stash, latest and EMA window worse; warm-up helps a little."""
    own = JITTER[(run.seed + sum(map(ord, f"sgd-{run.stages}-{run.strategy}"))) % 5]
    return BASE[run.strategy] + NOISE[run.seed] + own + (0.5 if run.warm else 0.0)


def make(accuracy: Accuracy = usual, keep: Callable[[Run], bool] = lambda run: True) -> TunedRecords:
    """The records of those runs that are kept; an accuracy that is absent is a run that diverged."""
    rows = pd.DataFrame([_row(run, accuracy(run)) for run in RUNS if keep(run)])
    epochs = rows[["optimizer", "num_stages", "strategy", "seed"]].assign(epoch=0, val_accuracy=rows["test_accuracy"])
    tried = [("sgd", *cell, rate, rate) for cell in CELLS for rate in RATES]
    tuning = pd.DataFrame(tried, columns=["optimizer", "stages", "strategy", "lr", "val_accuracy"])
    best = [("sgd", *cell, RATES[-1], True) for cell in CELLS]
    chosen = pd.DataFrame(best, columns=["optimizer", "num_stages", "strategy", "lr", "edge"])
    report = {"equivalence_margin_points": 0.5, "significance_level": 0.05, "image_guard": False}
    about = {"name": "tiny", "width": 8, "epochs": 1, "stages": STAGES, "optimizers": ["sgd"], "published": True}
    about |= {"network": "mlp", "dataset": "digits", "seeds": SEEDS, "strategies": STRATEGIES, "group_sizes": None}
    about |= {"warm_up": None, "finished": len(rows) + len(tuning), "planned": len(RUNS) + len(tuning)}
    return TunedRecords(about | {"report": report}, rows, tuning, chosen, epochs)


def _row(run: Run, percent: float | None) -> dict[str, Any]:
    share = None if percent is None else percent / 100
    strategy, law = run.strategy + "-warm" * run.warm, "none" if run.strategy == "sequential" else "layerpipe2"
    key = {"network": "mlp", "optimizer": "sgd", "num_stages": run.stages, "strategy": strategy, "seed": run.seed}
    result = {"status": "diverged" if share is None else "completed", "test_accuracy": share, "test_images": 10_000}
    rest = {"history_copies": 1.0, "wall_time_s": 60.0, "commit": "abc", "device": "some device"}
    return {"dataset": "digits", "convention": law} | key | result | rest


def write(results: Path, records: TunedRecords) -> Path:
    """The tables as files; returns their folder."""
    folder = results / "full_scale" / records.name / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("runs", "epochs", "tuning", "chosen"):
        getattr(records, name).to_csv(folder / f"{name}.csv", index=False)
    (folder / "experiment.json").write_text(json.dumps(records.experiment))
    return folder
