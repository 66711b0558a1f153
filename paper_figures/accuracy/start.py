"""Where instability sits: share of exact updates at the start x learning rate, divergence as a count."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import STASH
from layerpipe2.lab.judging.history_costs import with_scores
from layerpipe2.lab.looks import ordered
from layerpipe2.strategies import find_strategy
from paper_figures import style
from paper_figures.accuracy.evidence import evidence
from paper_figures.records import Records

NAME = "why-start"
UPDATES = 1500
"""Of a run: 3 epochs of 16,000 images in batches of 32."""
WARM_UP = 0.2
"""Share of the updates in which the learning rate rises."""
_FROM = "-from-"


def counted(records: Records) -> pd.DataFrame:
    """Columns strategy, share (of exact updates; 1 of stash), lr, lost and n (runs)."""
    runs = with_scores(records.runs, ComparisonSettings.of(records.experiment))
    runs = runs[runs["num_stages"] > 1]
    parts = runs["strategy"].str.partition(_FROM)
    share = pd.to_numeric(parts[2], errors="coerce").fillna(0) / UPDATES
    runs = runs.assign(strategy=parts[0], share=share.mask(parts[0] == STASH, 1.0), lost=runs["status"] == "diverged")
    return runs.groupby(["strategy", "share", "lr"])["lost"].agg(lost="sum", n="count").reset_index()


@evidence.value
def started(causes: Mapping[str, Records]) -> pd.DataFrame | None:
    """The counts; None if there are none."""
    return counted(causes[NAME]) if NAME in causes else None


@evidence.value
def started_said(started: pd.DataFrame | None) -> list[str]:
    """What the map says, in a sentence per strategy."""
    if started is None:
        return []
    stable = started[(started["strategy"] == STASH) & (started["lost"] == 0)]["lr"]
    said = []
    for name, table in started[(started["strategy"] != STASH) & started["lr"].isin(stable)].groupby("strategy"):
        cells = dict(list(table.groupby("share")))
        counts = ", ".join(f"{100 * s:.0f} %: {rows['lost'].sum()} of {rows['n'].sum()}" for s, rows in cells.items())
        lost = max((share for share, rows in cells.items() if rows["lost"].any()), default=-1.0)
        saved = [share for share in cells if share > lost]
        end = f"none diverges from {100 * min(saved):.0f} % on" if saved else "no share saves all runs"
        label = find_strategy(str(name)).label
        said.append(
            f"{label}, at the rates at which no run of stash diverges, by share of exact updates: {counts}; {end}."
        )
    return said


evidence.table("started", shown=None, when=lambda started: started is not None)(lambda started: started)


@evidence.figure("started", when=lambda started: started is not None)
def draw(started: pd.DataFrame) -> Figure:
    """Draw a map per strategy: rows are shares of exact updates, columns rates, darker where more runs diverged."""
    names = [name for name in ordered(started["strategy"]) if name != STASH]
    figure, axes = style.canvas(2.7, columns=len(names), sharey=True)
    stash = started[started["strategy"] == STASH]
    for name, axis in zip(names, axes[0], strict=True):
        _map(axis, pd.concat([started[started["strategy"] == name], stash]))
        axis.set(title=find_strategy(name).label, xlabel="peak learning rate")
    axes[0, 0].set_ylabel("share of the updates, from the\nfirst one on, that are exact")
    style.title(figure, "Runs that diverged, of how many")
    style.note(
        figure,
        f"MLP, MNIST-1D, 9 stages, plain SGD, 1,500 updates, n = {started['n'].max()} seeds; the rate rises for 20 %.\n"
        "100 %: stash. A run that ended within a fifth of guessing has diverged.\n"
        "Of 0 (3) of 3 the one-sided 95 % bound of the probability is 63 % (37 %).",
    )
    return figure


def _map(axis: Any, rows: pd.DataFrame) -> None:
    table = rows.pivot_table(index="share", columns="lr", values=["lost", "n"], aggfunc="sum")
    axis.imshow(table["lost"] / table["n"], cmap="Greys", vmin=0, vmax=1.3, origin="lower", aspect="auto")
    for i, share in enumerate(table.index):
        for j, lr in enumerate(table["lost"].columns):
            lost, n = (int(table.loc[share, (what, lr)]) for what in ("lost", "n"))
            axis.text(
                j, i, f"{lost} of {n}", ha="center", va="center", fontsize=7, color="white" if 2 * lost > n else "black"
            )
    axis.set_xticks(range(len(table["lost"].columns)), [f"{lr:g}" for lr in table["lost"].columns])
    axis.set_yticks(range(len(table)), [f"{100 * share:.0f} %" for share in table.index])
    axis.grid(visible=False)
