"""Coarse searches: at which learning rates each strategy trains, and where it is best."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.judging.history_costs import scored
from layerpipe2.lab.looks import look, ordered
from paper_figures import style
from paper_figures.accuracy.evidence import evidence
from paper_figures.records import Records
from paper_figures.style import labels
from paper_figures.text import dataset_label, network_label, optimizer_label, span

_CELL = ["network", "optimizer", "momentum", "num_stages"]
_TRAINED = 0.5
"""The share of what sequential training gains over guessing from which on a mean counts as trained."""


@evidence.value
def trained_rates(screens: Mapping[str, Records]) -> pd.DataFrame:
    """The learning rates at which each strategy trains, by cell of the coarse searches.

    A strategy trains at a rate if its mean score, in which a diverged run counts as guessing, gains at least half of
    what sequential training gains over guessing at its own best rate.

    Returns:
        Columns cell (a name), strategy, low and high (the least and largest rate; NaN where it trains at none), best
        (the rate of the best mean), lowest and highest (of those that were tried), n (seeds).
    """
    found = [row for records in screens.values() for row in _rows(records)]
    columns = ["cell", "strategy", "low", "high", "best", "lowest", "highest", "n"]
    return pd.DataFrame(found, columns=columns)


def _rows(records: Records) -> list[dict[str, Any]]:
    runs = scored(records.runs, ComparisonSettings.of(records.experiment))
    runs = runs.assign(gain=runs["score"].fillna(runs["guess"]) - runs["guess"])
    rows = []
    for (network, optimizer, momentum), mine in runs.groupby(_CELL[:3], dropna=False, sort=False):
        how = optimizer_label(str(optimizer), float(momentum))
        alone = mine[mine["num_stages"] == 1]
        enough = _TRAINED * alone.groupby("lr")["gain"].mean().max()
        for stages in sorted(set(mine["num_stages"]) - {1}):
            where = f"{stages} stages, {dataset_label(records.dataset).split(',')[0]}"
            cell = f"{network_label(str(network))}, {how}\n{where}"
            both = pd.concat([alone, mine[mine["num_stages"] == stages]])
            for name in ordered(both["strategy"]):
                rates = both[both["strategy"] == name].groupby("lr")["gain"].agg(["mean", "size"])
                trains = rates.index[rates["mean"] >= enough]
                ends = {"low": trains.min(), "high": trains.max(), "best": rates["mean"].idxmax()}
                tried = {"lowest": rates.index.min(), "highest": rates.index.max(), "n": int(rates["size"].min())}
                rows.append({"cell": cell, "strategy": name, **ends, **tried})
    return rows


_BEST: dict[str, Any] = {"marker": "o", "markersize": 4, "markerfacecolor": "white", "markeredgewidth": 1}


@evidence.table("screening", shown=None, when=lambda screens: screens)
def ranges(trained_rates: pd.DataFrame) -> pd.DataFrame:
    """As :func:`trained_rates`, with each cell's name in one line."""
    return trained_rates.assign(cell=trained_rates["cell"].str.replace("\n", ", "))


@evidence.figure("screening", when=lambda screens: screens)
def screening(trained_rates: pd.DataFrame) -> Figure:
    """A row per cell: each strategy's range of learning rates that train, and the best one in it."""
    cells, names = list(dict.fromkeys(trained_rates["cell"])), ordered(trained_rates["strategy"])
    figure, axes = style.canvas(1.2 + 0.42 * len(cells))
    axis = axes[0, 0]
    for row in trained_rates.to_dict("records"):
        y = cells.index(row["cell"]) + 0.7 * ((names.index(row["strategy"]) + 0.5) / len(names) - 0.5)
        _draw_range(axis, y, row)
    for border in range(1, len(cells)):
        axis.axhline(border - 0.5, color="#dddddd", linewidth=0.6)
    axis.set(xscale="log", xlabel="peak learning rate", ylim=(len(cells) - 0.5, -0.5))
    axis.set_yticks(range(len(cells)), cells, fontsize=6.5)
    axis.grid(visible=False, axis="y")
    entries = [
        style.handle(label, color=look(n).colour, linewidth=2.2) for n, label in zip(names, labels(names), strict=True)
    ]
    entries.append(style.handle("best rate", color="#444444", linestyle="", **_BEST))
    entries.append(style.handle("trains at none", color="#444444", marker="x", linestyle=""))
    style.legend(figure, entries, len(entries), "At which learning rates each strategy trains")
    style.note(
        figure,
        "Bars: from the least to the largest rate at which the mean gains at least half of what sequential training "
        f"gains over guessing,\nn = {span(trained_rates['n'])} seeds; a run that diverged counts as guessing. "
        "Arrows: up to the largest, down to the least\nrate that was tried. A cross stands at the rate of "
        "the best mean. No interval.",
    )
    return figure


def _draw_range(axis: Any, y: float, row: Mapping[str, Any]) -> None:
    colour = look(row["strategy"]).colour
    if pd.isna(row["low"]):
        axis.plot(row["best"], y, marker="x", markersize=4, color=colour)
        return
    axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.2 if row["strategy"] != SEQUENTIAL else 1.2)
    for end, last, out, marker in (("low", "lowest", 0.9, "<"), ("high", "highest", 1.12, ">")):
        if row[end] == row[last]:
            axis.plot(out * row[end], y, marker=marker, markersize=3.5, color=colour)
    axis.plot(row["best"], y, color=colour, zorder=4, **_BEST)
