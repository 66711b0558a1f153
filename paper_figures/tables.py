"""Tables: pure functions from records to data frames, and from data frames to Markdown.

Accuracies are shown in per cent, their differences and standard deviations in percentage points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from layerpipe2.delays import DELAY_LAWS
from paper_figures.labels import network_label
from paper_figures.records import CONFIGURATION, Records
from paper_figures.style import ordered, style

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


Format = Callable[[object], str]


def number(digits: int) -> Format:
    """Fixed-point format; an absent value is a dash."""
    return lambda value: "–" if pd.isna(value) else f"{value:.{digits}f}"


def significant(value: object) -> str:
    """Three significant digits, for values over many decades."""
    return "–" if pd.isna(value) else f"{value:.3g}"


def mean_spread(mean: float, sd: float, n: int, diverged: int = 0) -> str:
    """``97.3 ± 0.4 (n=3)``; says how many runs diverged, and never shows a spread of one run."""
    lost = f"{diverged} of {n + diverged} diverged" if diverged else ""
    if n == 0:
        return lost or "–"
    spread = f" ± {sd:.2f}" if n > 1 else ""
    return f"{mean:.2f}{spread} (n={n}{', ' + lost if lost else ''})"


_COLUMNS: Mapping[str, tuple[str, Format]] = {
    "network": ("network", lambda v: network_label(str(v))),
    "strategy": ("strategy", lambda v: style(str(v)).label),
    "group_size": ("units per stage", str),
    "mean": ("mean", significant),
    "min": ("min", significant),
    "max": ("max", significant),
    "train_loss": ("train loss (nats)", number(4)),
    "train_accuracy": ("train accuracy (%)", number(2)),
    "val_loss": ("val. loss (nats)", number(4)),
    "val_accuracy": ("val. accuracy (%)", number(2)),
    "recorded_delays": ("delays as recorded (updates)", str),
    "layerpipe2_delays": ("LayerPipe2, 2S", str),
    "pipedream_delays": ("PipeDream, S", str),
    "copies": ("copies beside the latest", number(2)),
    "parameters": ("parameters", number(0)),
    "mib": ("float32 MiB", number(3)),
    "delay": ("delay (updates)", str),
}


def for_readers(table: pd.DataFrame, formats: Mapping[str, tuple[str, Format]] | None = None) -> pd.DataFrame:
    """The table as text, with column names and names of networks and strategies for readers."""
    known = {**_COLUMNS, **(formats or {})}
    text = {}
    for column in table:
        name, form = known.get(column, (column.replace("_", " "), str))
        text[name] = [form(value) for value in table[column]]
    return pd.DataFrame(text, dtype=object)


def accuracy_for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`accuracy` with mean, spread, n and divergence in one cell."""
    cells = [mean_spread(r.mean_, r.sd, r.n, r.diverged) for r in table.rename(columns={"mean": "mean_"}).itertuples()]
    short = table[["network", "stages", "group_size", "strategy"]].assign(result=cells)
    return for_readers(short, {"result": ("test accuracy (%), mean ± SD", str)})


def markdown(table: pd.DataFrame) -> str:
    """A GitHub-flavoured Markdown table of a frame of text."""
    head = "| " + " | ".join(table.columns) + " |\n|" + " --- |" * table.shape[1] + "\n"
    lines = ("| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |\n" for row in table.to_numpy())
    return str(head) + "".join(lines)
