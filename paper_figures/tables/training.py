"""Tables of the default experiment. Accuracies are in per cent, their differences in percentage points."""

import pandas as pd

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.lab.judging.outcomes import accuracy_by_group
from layerpipe2.lab.judging.searches import chosen_trials
from layerpipe2.lab.looks import ordered
from paper_figures.records.training import CONFIGURATION, RUN, Records
from paper_figures.style import labels
from paper_figures.tables import for_readers
from paper_figures.text import mean_spread, network_label

_BYTES_PER_PARAMETER = 4  # float32
_MIB = 2**20


def accuracy(records: Records) -> pd.DataFrame:
    """Final test accuracy by network, partition and strategy, of the completed runs; diverged runs are counted.

    Returns:
        Columns network, stages, group_size, strategy, mean and sd (per cent; the sample standard deviation, absent
        for one run), min, max, n (completed runs), diverged (runs).
    """
    key = [*CONFIGURATION, "strategy"]
    rows = accuracy_by_group(records.runs, key).assign(stages=records.runs.groupby(key)["num_stages"].first())
    columns = ["network", "stages", "group_size", "strategy", "mean", "sd", "min", "max", "n", "diverged"]
    return _sorted(rows.reset_index()[columns], records)


def training(records: Records) -> pd.DataFrame:
    """Last epoch of the completed runs: training loss (nats) and accuracies (per cent), means over n seeds."""
    done = records.runs.loc[records.runs["status"] == "completed", [*RUN, "num_stages"]]
    last = records.epochs.merge(done, on=RUN).sort_values("epoch").groupby(RUN).tail(1)
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
    """Delays by network and partition, input side first, as recorded and as each delay law would have them."""
    rows = []
    for (network, group), stages in records.stages.groupby(CONFIGURATION):
        recorded = [int(d) for d in stages.sort_values("stage")["delay"]]
        laws = [DELAY_LAWS[name].delays(len(recorded)) for name in ("layerpipe2", "pipedream")]
        rows.append((network, len(recorded), group, *(" ".join(map(str, delays)) for delays in (recorded, *laws))))
    columns = ["network", "stages", "group_size", "recorded_delays", "layerpipe2_delays", "pipedream_delays"]
    return _sorted(pd.DataFrame(rows, columns=columns), records)


def memory(records: Records) -> pd.DataFrame:
    """Modelled weight-history memory: copies of the model's parameters beside the latest ones, and float32 MiB."""
    parameters = records.stages.groupby(CONFIGURATION, as_index=False)["parameters"].sum()
    first = records.runs.groupby([*CONFIGURATION, "strategy"])[["num_stages", "history_copies"]].first().reset_index()
    rows = first.rename(columns={"num_stages": "stages", "history_copies": "copies"})
    rows = rows.merge(parameters, how="left", on=CONFIGURATION)
    rows["mib"] = rows["copies"] * rows["parameters"] * _BYTES_PER_PARAMETER / _MIB
    return _sorted(rows, records)


def reconstruction(records: Records) -> pd.DataFrame:
    """Relative reconstruction error by network, delay and rule: mean, min, max over n (stage, seed, partition)."""
    probed = records.reconstruction[records.reconstruction["delay"] > 0]
    rows = probed.groupby(["network", "delay", "strategy"])["relative_error"].agg(["mean", "min", "max", "count"])
    return _sorted(rows.rename(columns={"count": "n"}).reset_index(), records)


def _sorted(rows: pd.DataFrame, records: Records) -> pd.DataFrame:
    orders = {"network": records.networks, "strategy": ordered(rows.get("strategy", []))}
    ranks = {column: {name: place for place, name in enumerate(names)} for column, names in orders.items()}
    keys = [key for key in ("network", "stages", "delay", "strategy") if key in rows]
    return rows.sort_values(keys, key=lambda c: c.map(ranks.get(str(c.name), lambda v: v)), ignore_index=True)


def accuracy_for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`accuracy` with mean, spread, n and divergence in one cell."""
    cells = [mean_spread(r.mean_, r.sd, r.n, r.diverged) for r in table.rename(columns={"mean": "mean_"}).itertuples()]
    short = table[["network", "stages", "group_size", "strategy"]].assign(result=cells)
    return for_readers(short, {"result": ("test accuracy (%), mean ± SD", str)})


def chosen_rates(trials: pd.DataFrame, networks: list[str]) -> pd.DataFrame:
    """The learning rate that each strategy's study chose on each network; an asterisk: at an end of its last range."""
    best = chosen_trials(trials)
    rate = {(r.network, r.strategy): f"{r.lr:.3g}{'*' * bool(r.edge)}" for r in best.itertuples()}
    names = ordered(best["strategy"])
    columns = {network_label(one): [rate.get((one, name), "none") for name in names] for one in networks}
    return pd.DataFrame({"strategy": labels(names)} | columns)
