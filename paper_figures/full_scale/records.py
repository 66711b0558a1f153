"""The records of a campaign as one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from experiments.campaign.tasks import Campaign, Task
from experiments.study.tables import epoch_rows, run_rows
from layerpipe2.errors import UserError
from layerpipe2.runs.records import Record

WARM = "-warm"
"""Ends the name of a strategy that was preceded by epochs with exact weights."""


@dataclass(frozen=True)
class CampaignRecords:
    """What is finished of a campaign.

    Attributes:
        runs: final runs, one row each: the columns of ``results/runs.csv``, ``optimizer`` being the name in the
            parameters, ``strategy`` with :data:`WARM` after a warm-up.
        tuning: tuning runs: optimizer, num_stages, strategy, lr, val_accuracy (absent if diverged).
        chosen: optimizer, num_stages, strategy, lr, and ``edge``: whether it is the smallest or largest that was tried.
        epochs: one row per final run and epoch.
        planned: number of all runs, tuning included.
    """

    campaign: Campaign
    runs: pd.DataFrame
    tuning: pd.DataFrame
    chosen: pd.DataFrame
    epochs: pd.DataFrame
    planned: int

    @property
    def finished(self) -> int:
        """Number of runs with a record, tuning included."""
        return len(self.runs) + len(self.tuning)


def load(campaign: Campaign) -> CampaignRecords:
    """Read what is finished.

    Raises:
        UserError: if no final run is, or a record is broken or belongs to other settings.
    """
    tasks = campaign.tasks()
    records = [(task, record) for task in tasks if (record := campaign.record(task)) is not None]
    final = [(task, record) for task, record in records if task.final]
    if not final:
        name = campaign.profile.name
        raise UserError(f"no final run of profile '{name}' in {campaign.folder}; run `make paper PROFILE={name}` first")
    runs = pd.DataFrame([row | _names(task) for task, record in final for row in run_rows(record)])
    epochs = pd.DataFrame([row | _names(task) for task, record in final for row in epoch_rows(record)])
    tuning = pd.DataFrame([_tuning_row(task, record) for task, record in records if not task.final])
    return CampaignRecords(campaign, runs, tuning, _chosen(campaign, tuning), epochs, len(tasks))


def _names(task: Task) -> dict[str, Any]:
    warm = WARM if task.config.stash_epochs else ""
    return {"optimizer": task.cell.optimizer, "num_stages": task.cell.stages, "strategy": task.cell.strategy + warm}


def _tuning_row(task: Task, record: Record) -> dict[str, Any]:
    done = record["status"] == "completed"
    accuracy = record["epochs"][-1]["val_accuracy"] if done else None
    return {**task.cell._asdict(), "lr": task.config.lr, "val_accuracy": accuracy}


def _chosen(campaign: Campaign, tuning: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for cell in dict.fromkeys(task.cell for task in campaign.tasks()):
        rate = campaign.best_rate(cell)
        if rate is not None:
            rates = campaign.profile.optimizers[cell.optimizer].rates
            edge = rate in (min(rates), max(rates))
            rows.append({"optimizer": cell.optimizer, "num_stages": cell.stages, "strategy": cell.strategy,
                         "lr": rate, "edge": edge})  # fmt: skip
    return pd.DataFrame(rows, columns=["optimizer", "num_stages", "strategy", "lr", "edge"])
