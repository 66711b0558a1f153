"""``layerpipe2 train``. What takes seconds to import is imported once the data is there."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.data import Data, load
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.records import Record, keep_record, output_file
from layerpipe2.lab.tracking.database import check_target

if TYPE_CHECKING:
    from layerpipe2.lab.tracking.logger import RunLogger


def run(options: argparse.Namespace) -> None:
    """Train one network; write the record and print a summary.

    Raises:
        UserError: on bad settings, data, output folder or database, before any training; after it, with the record's
            place, if the disk is full.
    """
    first = os.environ.get("RANK", "0") == "0"  # of the processes that `layerpipe2 launch` started
    keep_freed_memory()
    config = read_run(options)
    where = options.mlflow if first else None
    if where:
        check_target(where)
    out = output_file(Path(options.out)) if options.out else None
    quiet = options.quiet or not first
    announce = None if quiet else partial(print, file=sys.stderr)
    data = load(config.dataset, config.data_root, download=options.download, announce=announce)
    from layerpipe2.lab.runs.train import train_run
    from layerpipe2.pipeline.strategy import PipelineStrategy

    folder = Path(options.checkpoint_dir) if options.checkpoint_dir else None
    pipeline = None
    if "TORCHELASTIC_RUN_ID" in os.environ:  # a launcher started this process; a diverged run is a result
        pipeline = PipelineStrategy(check_finite=False, resumable=folder is not None)
    with _logger(where, config, data) if where else nullcontext() as logger:
        record = train_run(
            config,
            data=data,
            progress=not quiet,
            checkpoint_dir=folder,
            resume=options.resume,
            trainer_strategy=pipeline,
            loggers=[logger] if logger else [],
        )
        if pipeline is not None:
            record["processes"] = {"number": pipeline.processes, "memory": [asdict(row) for row in pipeline.memory]}
        if first:
            print(summary(record), flush=True)
            if out is not None:
                keep_record(out, record)
                print(f"record: {out}")
        if logger:
            logger.finish(record)


def _logger(where: str, config: RunConfig, data: Data) -> RunLogger:
    """The run's logger for --mlflow; its parameters are the settings that aren't the default."""
    import torch

    from layerpipe2.lab.runs.plan import make_plan
    from layerpipe2.lab.tracking.description import TRAIN, RunDescription
    from layerpipe2.lab.tracking.logger import RunLogger

    with torch.device("meta"):
        plan = make_plan(config, data.input_shape, data.num_classes)
    settings, defaults = plan.config.to_dict(), RunConfig().to_dict()
    changed = [name for name in settings if settings[name] != defaults[name]]
    shown = {"network", "dataset", "seed", *changed}
    return RunLogger(where, RunDescription(TRAIN, TRAIN, settings, plan.delays.per_stage, shown))


def summary(record: Record) -> str:
    """The outcome of a run in a few lines."""
    from layerpipe2.engine.divergence import describe
    from layerpipe2.pipeline.memory import StageMemory, memory_table

    config, where, test = record["config"], record["provenance"], record["test"]
    lines = [
        f"{config['network']} on {config['dataset']}, strategy {config['strategy']}, seed {config['seed']}",
        f"stages: {len(record['delays'])}   delays (updates, {record['convention']}): {record['delays']}",
        f"modelled weight history: {record['history_copies']:.2f} x the network's parameters",
    ]
    if record["status"] == "diverged":
        lines.append(f"diverged: {describe(record['divergence'])}")
    else:
        what = f"{test['images']} {'windows of text' if NETWORKS[config['network']].takes == 'text' else 'images'}"
        lines.append(f"test accuracy {test['accuracy']:.2%} of {what}, test loss {test['loss']:.4f}")
    if "processes" in record:
        rows = [StageMemory(**row) for row in record["processes"]["memory"]]
        lines += [f"{record['processes']['number']} processes", memory_table(rows)]
    return "\n".join([*lines, f"{where['train_time_s']:.1f} s of training on {where['device']}"])
