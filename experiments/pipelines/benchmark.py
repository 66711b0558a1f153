"""Pipelines on real processes, as ratios to plain training in one process: speed, time to a target accuracy, memory.

Every round runs each variant once, in turn, in fresh processes of one thread each; all train the same network on the
same batches. Networks are cut where their measured layer times balance best. Example:

  python -m experiments.pipelines.benchmark --network resnet18 --rounds 5 --out results/pipelines
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.pipelines import measure
from experiments.pipelines.predict import Predictor
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.summary import Row, summarise, table
from experiments.pipelines.variants import Job, stages_of
from layerpipe2.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.provenance import provenance

SYNCHRONOUS = tuple(f"{name}/{m}" for name in ("gpipe", "1f1b", "interleaved", "zero-bubble", "zero-bubble-v")
                    for m in (2, 4))  # fmt: skip
ASYNCHRONOUS = ("async/stash", "async/latest", "async/ema-window")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run_command("benchmark", _run, arguments)


def _run(arguments: Sequence[str] | None) -> None:
    options = _parser().parse_args(arguments)
    counts = {variant: stages_of(variant, options.processes) for variant in options.variants}
    if "plain" not in counts:
        raise UserError("variant 'plain' is missing; the others are measured against it")
    config = RunConfig(
        dataset=options.dataset, data_root=options.data_root, network=options.network, width=options.width,
        batch_size=options.batch_size, lr=options.lr, schedule="constant",
    )  # fmt: skip
    predictor = Predictor(config, options.processes, options.layer_repeats)
    job = Job(config, {k: predictor.balance(k).starts for k in set(counts.values())})
    rows = [_row(variant, predictor, options.processes) for variant in options.variants]
    for _ in range(options.rounds):
        for row in rows:
            _speed(row, job, options)
    for row in rows:
        ranks = _ranks(row, options)
        row["peak_torch_bytes"] = run_ranks(measure.measure_memory, ranks, job, row["variant"], 4)
    for seed in range(options.seeds):
        for row in rows:
            _accuracy(row, job, seed, options)
    summarise(rows, config.batch_size)
    print(table(rows, options))
    if options.out:
        _write(options, rows, job)


def _row(variant: str, predictor: Predictor, processes: int) -> Row:
    lists = ("seconds_per_batch", "peak_rss_bytes", "seconds_to_target", "epochs_to_target")
    return {"variant": variant, "predicted_speed_up": predictor.speedup(variant)} | {name: [] for name in lists}


def _ranks(row: Row, options: argparse.Namespace) -> int:
    return 1 if row["variant"].startswith("plain") else int(options.processes)


def _speed(row: Row, job: Job, options: argparse.Namespace) -> None:
    """One more round of a variant."""
    found = run_ranks(measure.measure_speed, _ranks(row, options), job, row["variant"], options.batches, options.warmup)
    row["seconds_per_batch"].append(max(rank["seconds"] for rank in found))
    row["peak_rss_bytes"].append([rank["peak_rss"] for rank in found])
    row["sent_bytes_per_batch"] = sum(rank["sent_bytes"] for rank in found)


def _accuracy(row: Row, job: Job, seed: int, options: argparse.Namespace) -> None:
    """One more seed of a variant; None where the target was not reached."""
    values = job.config.to_dict() | {"seed": seed}
    seeded = Job(RunConfig.from_dict(values), job.starts)
    work = (seeded, row["variant"], options.target, options.epochs)
    found = run_ranks(measure.measure_accuracy, _ranks(row, options), *work)[0]
    row["seconds_to_target"].append(found["seconds"] if found["reached"] else None)
    row["epochs_to_target"].append(len(found["accuracies"]) if found["reached"] else None)


def _write(options: argparse.Namespace, rows: Sequence[Row], job: Job) -> None:
    """``NETWORK.json`` with everything, ``NETWORK.csv`` with a line per variant and round."""
    options.out.mkdir(parents=True, exist_ok=True)
    plain = {name: value for name, value in vars(options).items() if name not in ("out", "data_root")}
    result = {"options": plain, "starts": job.starts, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    text = json.dumps(result, indent=1, sort_keys=True)
    (options.out / f"{options.network}.json").write_text(text + "\n")
    with (options.out / f"{options.network}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "round", "seconds_per_batch"])
        writer.writerows([r["variant"], i, s] for r in rows for i, s in enumerate(r["seconds_per_batch"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--network", default="even", help="'even' (eight equal convolutions) or a network of layerpipe2")
    add("--width", type=int, default=None, help="base width; default: the network's own, 64 for 'even'")
    add("--dataset", default="digits", help="data set")
    add("--data-root", default=None, help="folder searched first for the data set")
    add("--batch-size", type=int, default=64, help="images per mini-batch")
    add("--lr", type=float, default=0.01, help="learning rate of SGD with momentum 0.9")
    add("--processes", type=int, default=2, help="processes of a pipeline")
    add("--rounds", type=int, default=5, help="times that each variant's speed is measured")
    add("--batches", type=int, default=30, help="timed mini-batches per round")
    add("--warmup", type=int, default=5, help="mini-batches before them")
    add("--seeds", type=int, default=0, help="runs to the target accuracy; 0: none")
    add("--target", type=float, default=0.95, help="validation accuracy to reach")
    add("--epochs", type=int, default=15, help="most epochs to reach it")
    add("--layer-repeats", type=int, default=9, help="timed steps of the layer profile")
    add("--out", type=Path, default=None, help="folder for NETWORK.json and NETWORK.csv")
    add(
        "--variants",
        nargs="+",
        default=["plain", "plain/4", *SYNCHRONOUS, *ASYNCHRONOUS],
        metavar="NAME",
        help="what to compare",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
