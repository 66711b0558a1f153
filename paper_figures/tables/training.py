"""Tables of the default experiment. Accuracies are in per cent, their differences in percentage points."""

from __future__ import annotations

import pandas as pd

from layerpipe2.delays import DELAY_LAWS
from paper_figures.records.training import CONFIGURATION, Records
from paper_figures.style import ordered
from paper_figures.tables import for_readers
from paper_figures.text import mean_spread, number
from paper_figures.verdicts import outcome_word

_BYTES_PER_PARAMETER = 4  # float32
_MIB = 2**20


def accuracy(records: Records) -> pd.DataFrame:
    """Final test accuracy by network, partition and strategy, of the completed runs; diverged runs are counted.

    Returns:
        Columns network, stages, group_size, strategy, mean and sd (per cent; the sample standard deviation, absent
        for one run), min, max, n (completed runs), diverged (runs).
    """
    rows = []
    for (network, group, strategy), runs in records.runs.groupby([*CONFIGURATION, "strategy"]):
        percent = 100 * runs.loc[runs["status"] == "completed", "test_accuracy"]
        rows.append(
            {
                "network": network,
                "stages": int(runs["num_stages"].iloc[0]),
                "group_size": group,
                "strategy": strategy,
                "mean": percent.mean(),
                "sd": percent.std(),
                "min": percent.min(),
                "max": percent.max(),
                "n": len(percent),
                "diverged": int((runs["status"] == "diverged").sum()),
            }
        )
    return _sorted(pd.DataFrame(rows), records)


def training(records: Records) -> pd.DataFrame:
    """Last epoch of the completed runs: training loss (nats) and accuracies (per cent), means over n seeds."""
    done = records.runs.loc[records.runs["status"] == "completed", [*CONFIGURATION, "strategy", "seed", "num_stages"]]
    epochs = records.epochs.merge(done, on=[*CONFIGURATION, "strategy", "seed"])
    last = epochs.sort_values("epoch").groupby([*CONFIGURATION, "strategy", "seed"]).tail(1)
    rows = last.groupby([*CONFIGURATION, "strategy"]).agg(
        stages=("num_stages", "first"),
        epochs=("epoch", lambda epoch: int(epoch.max()) + 1),
        train_loss=("train_loss", "mean"),
        train_accuracy=("train_accuracy", lambda a: 100 * a.mean()),
        val_loss=("val_loss", "mean"),
        val_accuracy=("val_accuracy", lambda a: 100 * a.mean()),
        n=("seed", "nunique"),
    )
    return _sorted(rows.reset_index(), records)


def delays(records: Records) -> pd.DataFrame:
    """Delays by network and partition, input side first, as recorded and as each convention would have them."""
    rows = []
    for (network, group), stages in records.stages.groupby(CONFIGURATION):
        recorded = [int(d) for d in stages.sort_values("stage")["delay"]]
        count = len(recorded)
        laws = {f"{name}_delays": _listed(DELAY_LAWS[name].delays(count)) for name in ("layerpipe2", "pipedream")}
        row = {"network": network, "stages": count, "group_size": group, "recorded_delays": _listed(recorded)}
        rows.append(row | laws)
    return _sorted(pd.DataFrame(rows), records)


def memory(records: Records) -> pd.DataFrame:
    """Modelled weight-history memory: copies of the model's parameters beside the latest ones, and float32 MiB."""
    parameters = records.stages.groupby(CONFIGURATION)["parameters"].sum()
    first = records.runs.groupby([*CONFIGURATION, "strategy"])[["num_stages", "history_copies"]].first().reset_index()
    rows = first.rename(columns={"num_stages": "stages", "history_copies": "copies"})
    sizes = [parameters.get((n, g), float("nan")) for n, g in zip(rows["network"], rows["group_size"], strict=True)]
    rows["parameters"] = sizes
    rows["mib"] = rows["copies"] * rows["parameters"] * _BYTES_PER_PARAMETER / _MIB
    return _sorted(rows, records)


def reconstruction(records: Records) -> pd.DataFrame:
    """Relative reconstruction error by network, delay and rule: mean, min, max over n (stage, seed, partition)."""
    probed = records.reconstruction[records.reconstruction["delay"] > 0]
    rows = probed.groupby(["network", "delay", "strategy"])["relative_error"].agg(["mean", "min", "max", "count"])
    return _sorted(rows.rename(columns={"count": "n"}).reset_index(), records)


def _sorted(rows: pd.DataFrame, records: Records) -> pd.DataFrame:
    networks = {name: place for place, name in enumerate(records.networks)}
    strategies = {name: place for place, name in enumerate(ordered(rows.get("strategy", pd.Series(dtype=str))))}
    ranks = {"network": networks, "strategy": strategies}
    keys = [key for key in ("network", "stages", "delay", "strategy") if key in rows]
    return rows.sort_values(keys, key=lambda c: c.map(ranks.get(str(c.name), lambda v: v)), ignore_index=True)


def _listed(values: tuple[int, ...] | list[int]) -> str:
    return " ".join(map(str, values))


def accuracy_for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`accuracy` with mean, spread, n and divergence in one cell."""
    cells = [mean_spread(r.mean_, r.sd, r.n, r.diverged) for r in table.rename(columns={"mean": "mean_"}).itertuples()]
    short = table[["network", "stages", "group_size", "strategy"]].assign(result=cells)
    return for_readers(short, {"result": ("test accuracy (%), mean ± SD", str)})


def equivalence_for_readers(table: pd.DataFrame, verdicts: bool = True) -> pd.DataFrame:
    """The table of comparisons with difference and interval in one cell, and the verdict in words or the outcome."""
    rows = table.to_dict("records")
    cells = [_difference(row["mean"], row["low"], row["high"], row["n"]) for row in rows]
    shown = table[["network", "num_stages", "strategy", "n", "lost"]].assign(
        difference=cells,
        p_equivalent=[number(3)(row["p_equivalent"]) for row in rows],
        image_error=[number(2)(row["image_error"]) for row in rows],
        verdict=[outcome_word(row["outcome"], row["n"]) if verdicts else row["outcome"] for row in rows],
    )
    names = {"num_stages": "stages", "lost": "diverged alone", "p_equivalent": "p (equivalence)"}
    names |= {"image_error": "test-image error (points)", "difference": "difference (points)"}
    names |= {} if verdicts else {"verdict": "outcome"}
    return for_readers(shown, {column: (name, str) for column, name in names.items()})


def _difference(mean: float, low: float, high: float, n: int) -> str:
    if n == 0:
        return "–"
    return _signed(mean) + (f" [{_signed(low)}, {_signed(high)}]" if n > 1 else "")


def _signed(points: float) -> str:
    return f"{round(points, 2) + 0.0:+.2f}"  # no -0.00
