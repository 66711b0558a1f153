"""The question in one picture: what each strategy reaches beside sequential training, against the weights it keeps."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.judging.statistics import paired
from layerpipe2.lab.looks import ordered
from paper_figures import style
from paper_figures.records.training import Records
from paper_figures.text import network_label, setting, span


def accuracy_and_copies(records: Records, level: float) -> Figure:
    """Mean accuracy minus that of sequential training with the same seed, over copies of the weights.

    A panel per network, each at its largest number of stages; the intervals are those of 1 - 2 level.
    """
    tables = {name: _differences(records.runs[records.runs["network"] == name], level) for name in records.networks}
    with style.context():
        figure, axes = style.canvas(2.4, columns=len(tables), rows=1, sharey=True)
        for axis, (name, table) in zip(axes.flat, tables.items(), strict=True):
            _panel(axis, table)
            axis.set_title(f"{network_label(name)}, {table['stages'].iloc[0]} stages")
            axis.set_xlabel("copies of the weights kept")
        axes[0, 0].set_ylabel("accuracy minus that of\nsequential training (points)")
        every = pd.concat(tables.values())
        style.legend(figure, style.handles(every["strategy"], linestyle=""), columns=6)
        style.note(figure, _note(records, every, level))
        return figure


def _differences(runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """A row per strategy: stages, copies, mean with its ends low and high, n, runs that diverged and all of them."""
    alone = runs[runs["strategy"] == SEQUENTIAL].set_index("seed")["test_accuracy"]
    deepest = runs[runs["num_stages"] == runs["num_stages"].max()]
    rows = []
    for name in ordered(deepest["strategy"]):
        mine = deepest[deepest["strategy"] == name].set_index("seed")
        found = paired(100 * (mine["test_accuracy"] - alone).dropna(), margin=1.0, level=level)
        lost = int((mine["status"] == "diverged").sum())
        rows.append(
            {"strategy": name, "stages": int(mine["num_stages"].iloc[0]), "copies": mine["history_copies"].max()}
            | {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n, "lost": lost, "of": len(mine)}
        )
    return pd.DataFrame(rows)


def _panel(axis: Any, table: pd.DataFrame) -> None:
    axis.axhline(0, color="#444444", linewidth=0.6)
    for row in table.to_dict("records"):
        look = style.line(row["strategy"], linestyle="")
        ends = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axis.errorbar(row["copies"], row["mean"], yerr=ends, elinewidth=0.9, capsize=2, **look)
        if row["lost"]:
            text = f"{row['lost']} of {row['of']} diverged"
            axis.annotate(text, (row["copies"], row["mean"]), (5, -8), textcoords="offset points", fontsize=7)
    axis.set_xlim(left=-0.06 * table["copies"].max())
    axis.margins(x=0.12)
    style.integer_ticks(axis)


def _note(records: Records, table: pd.DataFrame, level: float) -> str:
    seeds = span(table["n"], "{:.0f}".format)
    return (
        f"Mean over n = {seeds} seeds of the runs that completed, paired by seed; lines: {100 * (1 - 2 * level):g} % "
        f"intervals. 0: no pipeline.\nCopies: modelled, beside the latest weights. "
        f"{setting(records.dataset, records.convention)}"
    )
