"""Final accuracies made by hand, for tests of comparisons and verdicts. Not measurements."""

from __future__ import annotations

import pandas as pd
import synthetic_records

from paper_figures.records.training import Records

Accuracies = dict[str, list[float | None]]
STASH = [0.970, 0.972, 0.968, 0.971]


def made_runs(columns: Accuracies, images: int = 10_000, network: str = "mlp") -> pd.DataFrame:
    """Runs from accuracies by strategy and seed, at 9 stages; None is a diverged run."""
    rows = [
        {"network": network, "group_size": 1, "num_stages": 9, "strategy": strategy, "seed": seed,
         "status": "diverged" if accuracy is None else "completed", "test_accuracy": accuracy, "test_images": images}
        for strategy, accuracies in columns.items() for seed, accuracy in enumerate(accuracies)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"test_accuracy": float})


def made_records(*runs: pd.DataFrame) -> Records:
    """Records with these runs; their other tables are those of :mod:`synthetic_records`."""
    whole = {"dataset": "digits", "convention": "layerpipe2", "max_delay": 16, "history_copies": 1.0}
    return Records(**(synthetic_records.make(seeds=1) | {"runs": pd.concat(runs).assign(**whole)}))
