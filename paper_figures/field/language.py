"""A small language model, cut into a few stages: the front's best rows, judged by the test loss."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from layerpipe2.lab.judging.designs import SEQUENTIAL, STASH
from layerpipe2.lab.judging.statistics import holm
from layerpipe2.strategies import find_strategy
from paper_figures.accuracy.tuning import list_ends
from paper_figures.field.page import above, field, loses, mean_and_ends, two_sided
from paper_figures.field.tables import interval, p_value
from paper_figures.records import Records
from paper_figures.text import listed

_LEAST_SD = 0.001
"""Least standard deviation of differences, in nats, as one image of 10,000 is that of accuracies."""


@field.value
def losses(language: Sequence[Records]) -> pd.DataFrame:
    """A row per number of stages and strategy: test loss in nats, and how far it lies over sequential's and stash's.

    Returns:
        Columns stages, strategy, lr, end (``lowest`` or ``highest`` of the rates that were tried, else empty), loss, n
        (pairs of seeds), diverged, cost (over sequential), low, high (its
        interval), gain (under stash), gain_low, gain_high, p (of the gain, Holm-adjusted over all rows) and copies.
    """
    rows = [
        {"stages": int(records.runs["num_stages"].max())} | _row(records.runs, name, ends)
        for records in language
        for ends in [{} if records.tuning is None else list_ends(records.tuning)]
        for name in dict.fromkeys(records.runs["strategy"])
    ]
    columns = ["stages", "strategy", "lr", "end", "loss", "n", "diverged", "cost", "low", "high", "gain", "gain_low"]
    table = pd.DataFrame(rows, columns=[*columns, "gain_high", "p", "copies"])
    return table.assign(p=holm(table["p"].to_numpy(dtype=float)) if len(table) else [])


def _row(runs: pd.DataFrame, name: str, ends: Mapping[float, str]) -> dict[str, object]:
    wide = runs.pivot_table(index="seed", columns="strategy", values="test_loss", dropna=False)
    own = runs[runs["strategy"] == name]
    cost = (wide[name] - wide[SEQUENTIAL]).dropna().to_numpy()
    gain = (wide[STASH] - wide[name]).dropna().to_numpy()
    return {
        **{"strategy": name, "lr": own["lr"].iloc[0], "end": ends.get(own["lr"].iloc[0], "")},
        **{"loss": own["test_loss"].mean(), "n": len(cost)},
        "diverged": int((own["status"] == "diverged").sum()),
        **mean_and_ends(cost, "cost", "low", "high") | mean_and_ends(gain, "gain"),
        "p": math.nan if name in (STASH, SEQUENTIAL) else two_sided(gain, least_sd=_LEAST_SD),
        "copies": own["history_copies"].max(),
    }


def losses_for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """The losses as text, sequential training first."""
    rows = [
        {
            "stages": str(r.stages),
            "row": find_strategy(str(r.strategy)).label,
            "learning rate": f"{r.lr:.2g}" + (f", {r.end}" if r.end else ""),
            "test loss": f"{r.loss:.3f}",
            "over sequential": interval(r.cost, r.low, r.high, digits=3),
            "over stash": interval(-r.gain, -r.gain_high, -r.gain_low, digits=3),
            "p": p_value(r.p),
            "n": str(r.n),
            "diverged": str(r.diverged),
            "copies": f"{r.copies:.2f}",
        }
        for r in table.itertuples()
    ]
    return pd.DataFrame(rows, dtype=object)


field.table("losses", shown=losses_for_readers)(lambda losses: losses)


@field.value
def language_answers(losses: pd.DataFrame) -> list[str]:
    """A line per number of stages: what the delay costs, and what is shown to gain over exact stashing or to lose."""
    return [_answer(int(stages), table) for stages, table in losses.groupby("stages")]


def _answer(stages: int, table: pd.DataFrame) -> str:
    delay = table.set_index("strategy").loc[STASH, "cost"]
    kinds = {"gain over it": _named(table[above(table)]), "lose": _named(table[loses(table)])}
    shown = [f"shown to {kind}: {listed(rows)}" for kind, rows in kinds.items() if rows]
    found = "; ".join(shown or ["nothing is shown to gain over it or to lose"])
    return f"{stages} stages: with exact stashing the delay costs {delay:.3f} nats; {found}."


def _named(table: pd.DataFrame) -> list[str]:
    mine = table[table["strategy"] != SEQUENTIAL].sort_values("gain", key=abs)[::-1]
    amounts = {r.strategy: "(diverged)" if r.diverged else f"{abs(r.gain):.3f}" for r in mine.itertuples()}
    return [f"{find_strategy(str(name)).label} {amount}" for name, amount in amounts.items()]
