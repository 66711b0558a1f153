"""What a process of a campaign does: take the next run that nobody does, until none is left."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import as_completed

import torch

from experiments.campaign.locks import claimed
from experiments.campaign.tasks import Campaign, Task
from experiments.study.pool import workers
from layerpipe2.provenance import provenance
from layerpipe2.runs.records import Record, writable_folder, write_json

_POLL = 2.0  # seconds between two looks at what the others are doing


def run_campaign(campaign: Campaign, *, jobs: int, gpus: int, deadline: float | None = None) -> int:
    """Do all runs that have no record yet, in ``jobs`` processes; returns how many are left.

    Args:
        campaign: what is to be done, and where.
        jobs: processes side by side.
        gpus: CUDA devices; process ``i`` gets device ``i mod gpus``.
        deadline: time (``time.time()``) after which no run is begun.

    Raises:
        UserError: a run's own, if a worker was killed, or if the folder can't be written.
    """
    for folder in {campaign.folder / task.path.parent for task in campaign.tasks()}:
        writable_folder(folder)
    with workers(jobs) as pool:
        todo = [pool.submit(work, campaign, i % gpus if gpus else None, deadline) for i in range(jobs)]
        for done in as_completed(todo):
            done.result()
    return sum(campaign.record(task) is None for task in campaign.tasks())


def work(campaign: Campaign, gpu: int | None, deadline: float | None) -> None:
    """In a worker: do runs until none is left that could be begun, now or later."""
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[gpu] if gpu < len(visible) and visible[gpu] else str(gpu)
    provenance(
        torch.device("cpu")
    )  # keeps the commit of the code that is loaded: the checkout may move in the meantime
    waiting = campaign.tasks()
    while waiting and (deadline is None or time.time() < deadline):
        waiting = [task for task in waiting if campaign.record(task) is None]
        if not _do_one(campaign, waiting) and waiting:
            time.sleep(_POLL)


def _do_one(campaign: Campaign, waiting: list[Task]) -> bool:
    """Do the first run that is ready and that nobody else does."""
    for task in waiting:
        config = campaign.ready(task)
        if config is None:
            continue
        path = campaign.folder / task.path
        with claimed(path.with_suffix(".lock")) as mine:
            # Between the look and the claim another process may have finished it.
            if not mine or campaign.record(task) is not None:
                continue
            from experiments.study.worker import train_quietly

            record = train_quietly(config)
            write_json(path, record)
        _say(campaign, task, record)
        return True
    return False


def _say(campaign: Campaign, task: Task, record: Record) -> None:
    tasks = campaign.tasks()
    done = sum((campaign.folder / other.path).is_file() for other in tasks)
    accuracy = record["epochs"][-1]["val_accuracy"] if record["epochs"] else None
    outcome = record["status"] if accuracy is None or record["status"] == "diverged" else f"validation {accuracy:.2%}"
    seconds = record["provenance"]["wall_time_s"]
    line = f"{done}/{len(tasks)} {task.label}: lr {record['config']['lr']:g}, {outcome}, {seconds:.0f} s"
    print(line, file=sys.stderr, flush=True)
