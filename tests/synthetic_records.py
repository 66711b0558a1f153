"""Made-up records in the columns of ``results/*.csv``, for tests of figures and verdicts. Not measurements.

The tables of the theory are the repository's own: they follow from the code, and no training run is in them.
"""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from paper_figures import theory
from paper_figures.records import Records
from paper_figures.theory import Theory

STRATEGIES = ("stash", "latest", "ema-0.9", "ema-window", "ema-running", "ema-span", "ema-lsq")
UNITS = {"mlp": 9, "resnet-small": 5}
_TEST_IMAGES, _EPOCHS = 450, 6
_LOSS = {"latest": 0.012, "ema-0.9": 0.004, "ema-running": 0.001}  # accuracy lost per update of delay


def make(seeds: int = 3, units: dict[str, int] = UNITS, groups: tuple[int, ...] = (1, 2, 4)) -> dict[str, pd.DataFrame]:
    """runs, epochs, reconstruction and stages with diverged runs and one missing seed."""
    rng = np.random.default_rng(0)
    runs, epochs, stages, errors = [], [], [], []
    for network, length in units.items():
        for group in (*groups, length):
            count = -(-length // group)
            delays = [2 * (count - 1 - k) for k in range(count)]
            sizes = [1000 + 200 * k for k in range(count)]
            for k in range(count):
                stages.append(
                    {"network": network, "group_size": group, "stage": k, "delay": delays[k], "parameters": sizes[k]}
                )
            for strategy in STRATEGIES if count > 1 else ("sequential",):
                for seed in range(seeds):
                    if (strategy, seed, group) == ("ema-span", 2, 1):
                        continue  # a run that is missing
                    lost = strategy == "latest" and group == 1 and (network == "mlp" or seed == 0)
                    run = _run(network, group, strategy, seed, delays, sizes, lost, rng)
                    runs.append(run)
                    epochs += _epochs(run, rng)
            if count > 1:
                errors += _errors(network, group, delays, seeds, rng)
    tables = {"runs": runs, "epochs": epochs, "reconstruction": errors, "stages": stages}
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


THEORY = Path(__file__).parents[1] / "results" / "theory"
EXPERIMENT = {
    **{"name": "made up", "published": True, "network": "mlp, resnet-small", "dataset": "digits"},
    **{"optimizers": ["sgd"], "seeds": [0, 1, 2], "stages": None, "group_sizes": [1, 2, 4]},
    **{"strategies": list(STRATEGIES), "width": None, "epochs": None, "planned": 100, "finished": 99},
    "report": {"equivalence_margin_points": 2.0, "significance_level": 0.05, "image_guard": True},
}


def records(seeds: int = 3, units: dict[str, int] = UNITS, groups: tuple[int, ...] = (1, 2, 4)) -> Records:
    """The tables of :func:`make` as records."""
    return Records(**make(seeds, units, groups), experiment=EXPERIMENT)


def theory_tables() -> Theory:
    """The repository's own tables of the theory."""
    return theory.load(THEORY)


def write(folder: Path, tables: dict[str, pd.DataFrame]) -> Path:
    """The tables as CSV files in ``folder``, those of the theory in ``folder/theory``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "experiment.json").write_text(json.dumps(EXPERIMENT))
    shutil.copytree(THEORY, folder / "theory", dirs_exist_ok=True)
    return folder


def _run(network, group, strategy, seed, delays, sizes, lost, rng):
    copies = {"stash": lambda d: d, "sequential": lambda d: 0, "latest": lambda d: 0}.get(strategy, lambda d: min(d, 1))
    base = (0.972 if network == "mlp" else 0.988) - _LOSS.get(strategy, 0) * delays[0] + rng.normal(0, 0.003)
    accuracy = round(base * _TEST_IMAGES) / _TEST_IMAGES
    key = {"dataset": "digits", "network": network, "group_size": group, "strategy": strategy, "seed": seed}
    key["rate"] = "tuned"
    made = {"num_stages": len(delays), "max_delay": delays[0], "convention": "layerpipe2", "optimizer": "sgd"}
    result = {"status": "completed", "diverged_epoch": None, "test_accuracy": accuracy, "test_loss": 0.1}
    gone = {"status": "diverged", "diverged_epoch": 3, "test_accuracy": None, "test_loss": None}
    held = sum(copies(d) * n for d, n in zip(delays, sizes, strict=True)) / sum(sizes)
    rest = {"test_images": _TEST_IMAGES, "best_val_accuracy": accuracy, "final_val_accuracy": accuracy}
    cost = {"history_copies": held, "wall_time_s": 3.0, "train_time_s": 2.5, "commit": "0123abc", "device": "cpu"}
    return key | made | {"momentum": 0.9, "lr": 0.02} | (gone if lost else result) | rest | cost


def _epochs(run, rng):
    rows = []
    for epoch in range(_EPOCHS):
        gone = run["status"] == "diverged" and epoch >= run["diverged_epoch"]
        growth = 4.0**epoch if run["status"] == "diverged" else 0.4**epoch
        accuracy = run["final_val_accuracy"] * (1 - 0.5 ** (epoch + 1)) + rng.normal(0, 0.005)
        key = {name: run[name] for name in ("network", "group_size", "strategy", "seed", "rate", "lr")}
        train = {"train_loss": np.nan if gone else 2 * growth + 0.01, "train_accuracy": accuracy}
        val = {"val_loss": np.nan if gone else 2 * growth + 0.1, "val_accuracy": np.nan if gone else accuracy}
        rows.append(key | {"epoch": epoch} | train | val)
        if gone:
            break
    return rows


def _errors(network, group, delays, seeds, rng):
    level = {"ema-0.9": 0.8, "ema-window": 0.35, "ema-running": 0.5, "ema-span": 0.25, "ema-lsq": 0.3}
    rows = []
    for seed, (k, d), strategy in itertools.product(
        range(seeds), enumerate(delays[:-1]), ("latest", "update-window", *level)
    ):
        error = {"latest": 1.0, "update-window": 1e-7}.get(strategy)
        if error is None:
            error = level[strategy] * (1 + d / 20) * np.exp(rng.normal(0, 0.1))
        rows.append((network, group, seed, "tuned", k, d, strategy, 20, error))
    columns = ["network", "group_size", "seed", "rate", "stage", "delay", "strategy", "n", "relative_error"]
    return [dict(zip(columns, row, strict=True)) for row in rows]


Accuracies = dict[str, list[float | None]]
STASH = [0.970, 0.972, 0.968, 0.971]


def made_runs(columns: Accuracies, images: int = 10_000, network: str = "mlp") -> pd.DataFrame:
    """Runs from accuracies by strategy and seed, at 9 stages; None is a diverged run."""
    rows = [
        (network, 1, 9, strategy, seed, "diverged" if accuracy is None else "completed", accuracy, images)
        for strategy, accuracies in columns.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    names = ["network", "group_size", "num_stages", "strategy", "seed", "status", "test_accuracy", "test_images"]
    return pd.DataFrame(rows, columns=names).astype({"test_accuracy": float})


def made_records(*runs: pd.DataFrame) -> Records:
    """Records with these runs; their other tables are those of :func:`make`."""
    return Records(**(make(seeds=1) | {"runs": pd.concat(map(whole, runs))}))


def whole(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of :func:`made_runs` with all columns that a pipeline's cell has."""
    same = {"dataset": "digits", "convention": "layerpipe2", "max_delay": 16, "history_copies": 1.0}
    return runs.assign(**same, optimizer="sgd", momentum=0.9, rate="tuned")
