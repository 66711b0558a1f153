"""Made-up run records, for tests of what is made from records. Not measurements."""

from typing import Any

from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.record_schema import SCHEMA

DIVERGENCE = {"place": "epochs.0.train_loss", "epoch": 0, "step": 3, "stage": 1, "quantity": "weights"}


def record(strategy: str = "stash", seed: int = 0, *, diverged: bool = False, **settings: Any) -> dict[str, Any]:
    """A record of two epochs and three stages (one for the baseline); a diverged one has only the first."""
    sequential = strategy == "sequential"
    delays = [0] if sequential else [4, 2, 0]
    config = RunConfig(strategy=strategy, seed=seed, epochs=2, group_size=9 if sequential else 3, **settings)
    epochs = [
        {"epoch": i, "lr": 0.1, "train_loss": loss, "train_accuracy": acc, "val_loss": loss, "val_accuracy": acc}
        for i, (loss, acc) in enumerate([(2.0, 0.5), (1.0, 0.75)])
    ]
    if diverged:
        epochs = [epochs[0] | {"train_loss": None, "val_loss": None}]
    accuracy = None if diverged else 0.8 + 0.05 * (seed % 4)
    rule = {"stage": 0, "delay": 4, "strategy": "ema-window", "relative_error": 0.25, "n": 7}
    return {
        "schema": SCHEMA,
        "config": config.to_dict(),
        "network": {"units": 9, "parameters_per_stage": [60] if sequential else [10, 20, 30]},
        "convention": "none" if sequential else "layerpipe2",
        "delays": delays,
        "history_copies": 0.0 if sequential else 80 / 60,
        "status": "diverged" if diverged else "completed",
        "diverged_epoch": 0 if diverged else None,
        "divergence": DIVERGENCE if diverged else None,
        "epochs": epochs,
        "test": {"loss": None if diverged else 0.5, "accuracy": accuracy, "images": 450},
        "reconstruction": [rule] if strategy == "stash" else [],
        "provenance": {"commit": "0123abc", "dirty": False, "versions": {"torch": "2"}, "device": "cpu", "threads": 1}
        | {"started": "2026-01-01T00:00:00+00:00", "wall_time_s": 2.0, "train_time_s": 1.5},
    }
