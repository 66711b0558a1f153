"""A small language model at three stages: the front's best rows, judged by the test loss."""

import math

import pandas as pd

from layerpipe2.lab.judging.designs import SEQUENTIAL, STASH
from layerpipe2.lab.judging.statistics import holm
from layerpipe2.strategies import find_strategy
from paper_figures.field.page import above, field, mean_and_ends, two_sided
from paper_figures.field.tables import interval, p_value
from paper_figures.records import Records
from paper_figures.text import listed

_LEAST_SD = 0.001
"""Least standard deviation of differences, in nats, as one image of 10,000 is that of accuracies."""


@field.value
def losses(language: Records | None) -> pd.DataFrame:
    """A row per strategy: test loss in nats, and how far it lies over those of sequential training and stash.

    Returns:
        Columns strategy, lr, loss, n (pairs of seeds), diverged, cost (over sequential), low, high (its interval),
        gain (under stash), gain_low, gain_high, p (of the gain, Holm-adjusted) and copies.
    """
    rows = [] if language is None else [_row(language.runs, name) for name in dict.fromkeys(language.runs["strategy"])]
    columns = ["strategy", "lr", "loss", "n", "diverged", "cost", "low", "high", "gain", "gain_low", "gain_high", "p"]
    table = pd.DataFrame(rows, columns=[*columns, "copies"])
    return table.assign(p=holm(table["p"].to_numpy(dtype=float)) if len(table) else [])


def _row(runs: pd.DataFrame, name: str) -> dict[str, object]:
    wide = runs.pivot_table(index="seed", columns="strategy", values="test_loss", dropna=False)
    own = runs[runs["strategy"] == name]
    cost = (wide[name] - wide[SEQUENTIAL]).dropna().to_numpy()
    gain = (wide[STASH] - wide[name]).dropna().to_numpy()
    return {
        **{"strategy": name, "lr": own["lr"].iloc[0], "loss": own["test_loss"].mean(), "n": len(cost)},
        "diverged": int((own["status"] == "diverged").sum()),
        **mean_and_ends(cost, "cost", "low", "high") | mean_and_ends(gain, "gain"),
        "p": math.nan if name in (STASH, SEQUENTIAL) else two_sided(gain, least_sd=_LEAST_SD),
        "copies": own["history_copies"].max(),
    }


def losses_for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """The losses as text, sequential training first."""
    rows = [
        {
            "row": find_strategy(str(r.strategy)).label,
            "learning rate": f"{r.lr:.2g}",
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
def language_answer(losses: pd.DataFrame) -> str:
    """What is shown to gain over exact stashing, and what is left of the cost; empty without runs."""
    if not len(losses):
        return ""
    stash = losses.set_index("strategy").loc[STASH]
    better = losses[above(losses)].sort_values("gain")[::-1]
    rows = [f"{find_strategy(str(r.strategy)).label} {r.gain:.3f}" for r in better.itertuples()]
    shown = f"shown to gain over it, in nats: {listed(rows)}" if rows else "nothing is shown to gain over it"
    return f"With exact stashing the delay costs {stash['cost']:.3f} nats; {shown}."
