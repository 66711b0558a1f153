"""From run records to rows of flat tables: what figures, tables, ``dvc metrics`` and ``dvc plots`` read.

Beside what a record has, ``rate`` says where a run's learning rate comes from: ``tuned`` (its strategy's own choice),
``common`` (one for all, that of exact stashing or a given one) or, without a tuning, the entry of the experiment's
``optimizer_settings``.
"""

from collections.abc import Callable, Iterable, Iterator
from statistics import mean
from typing import Any

from layerpipe2.lab.judging.designs import RUN, SEQUENTIAL
from layerpipe2.lab.judging.outcomes import outcome
from layerpipe2.lab.runs.records import Record, Row
from layerpipe2.strategies import find_strategy


def run_rows(record: Record) -> list[Row]:
    """One row: settings, outcome and cost of the run. Accuracies are fractions, times seconds."""
    config, where = record["config"], record["provenance"]
    row = {name: config[name] for name in _SETTINGS} | {
        "rate": record["rate"],
        "convention": record["convention"],
        "num_stages": len(record["delays"]),
        "max_delay": max(record["delays"]),
        **{name: record[name] for name in ("status", "diverged_epoch")},
        **outcome(record),
    }
    return [row | {name: where[name] for name in (*_COST, "device")}]


def time_rows(record: Record) -> list[Row]:
    """One row: what another run with the same settings has otherwise."""
    return [_key(record) | {name: record["provenance"][name] for name in _COST}]


def epoch_rows(record: Record) -> list[Row]:
    """One row per epoch."""
    return [_key(record) | epoch for epoch in record["epochs"]]


def stage_rows(record: Record) -> list[Row]:
    """One row per stage: its delay in updates and its parameters; the same for all runs of a partition."""
    key = {name: record["config"][name] for name in ("network", "group_size")}
    pairs = zip(record["delays"], record["network"]["parameters_per_stage"], strict=True)
    return [key | {"stage": k, "delay": d, "parameters": n} for k, (d, n) in enumerate(pairs)]


_COST = ("wall_time_s", "train_time_s", "commit")
_SETTINGS = ("dataset", "network", "group_size", "strategy", "seed", "optimizer", "momentum", "lr")

TABLES: dict[str, Callable[[Record], list[Row]]] = {
    "runs": lambda record: [{k: v for row in run_rows(record) for k, v in row.items() if k not in _COST}],
    "times": time_rows,
    "epochs": epoch_rows,
    "stages": stage_rows,
    "reconstruction": lambda record: [_key(record) | row for row in record["reconstruction"]],  # `strategy` is the rule
}
"""Table with these columns (:data:`layerpipe2.lab.judging.designs.COLUMNS`) -> the rows that a record gives it."""


def metrics(records: list[Record]) -> dict[str, Any]:
    """Few headline numbers for ``dvc metrics`` and ``dvc exp show``.

    Counts of runs, and the test accuracy in per cent at each network's largest delay, mean over the networks: of
    sequential training, exact stashing, the latest weights, and all reconstructions that follow the delay. Null where
    no run of a network completed.
    """
    groups = {name: {name} for name in ("sequential", "stash", "latest")}
    groups["rules"] = {record["config"]["strategy"] for record in records if _is_rule(record)}
    deepest = _most_delayed(records).values()
    diverged = sum(record["status"] == "diverged" for record in records)
    found = {word: _mean_over(deepest, names) for word, names in groups.items()}
    return {"runs": len(records), "diverged": diverged, "accuracy": found}


def _is_rule(record: Record) -> bool:
    return find_strategy(record["config"]["strategy"]).aware


def _mean_over(networks: Iterable[dict[str, list[Record]]], names: set[str]) -> float | None:
    """In per cent, of the networks' means over the completed runs of these strategies."""
    means = [_mean(r["test"]["accuracy"] for n in sorted(names) for r in runs.get(n, ())) for runs in networks]
    return None if None in means or not means else round(100 * mean(value for value in means if value is not None), 2)


def curves(records: list[Record]) -> dict[str, list[Row]]:
    """Network -> rows ``epoch`` and, per strategy, the mean validation accuracy at the network's largest delay."""
    tables: dict[str, list[Row]] = {}
    for network, by_strategy in _most_delayed(records).items():
        length = max(len(record["epochs"]) for runs in by_strategy.values() for record in runs)
        tables[network] = [{"epoch": epoch} for epoch in range(length)]
        for epoch, row in enumerate(tables[network]):
            for strategy, runs in by_strategy.items():
                reached = [record["epochs"][epoch] for record in runs if epoch < len(record["epochs"])]
                row[strategy] = _mean(values["val_accuracy"] for values in reached)
    return tables


def _most_delayed(records: list[Record]) -> dict[str, dict[str, list[Record]]]:
    """Network -> strategy -> the runs with the network's largest delay, and those of the sequential baseline."""
    largest: dict[str, int] = {}
    for record in records:
        network = record["config"]["network"]
        largest[network] = max(largest.get(network, 0), max(record["delays"]))
    chosen: dict[str, dict[str, list[Record]]] = {network: {} for network in largest}
    for record in records:
        network, strategy = record["config"]["network"], record["config"]["strategy"]
        if strategy == SEQUENTIAL or max(record["delays"]) == largest[network]:
            chosen[network].setdefault(strategy, []).append(record)
    return chosen


def _key(record: Record) -> Row:
    return {name: record["config"].get(name, record["rate"]) for name in RUN}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def unique(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows without repetitions."""
    yield from {tuple(row.values()): row for row in rows}.values()
