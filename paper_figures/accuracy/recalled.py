"""Whether weights between the old and the latest ones, or beyond the old ones, beat exact stashing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import LATEST, STASH, paired_scores
from layerpipe2.lab.judging.history_costs import with_scores
from layerpipe2.lab.judging.statistics import holm, paired
from paper_figures import style
from paper_figures.accuracy.assay import interval, score
from paper_figures.accuracy.evidence import evidence
from paper_figures.records import Records
from paper_figures.text import network_label, number

SHARES = {STASH: 0.0, LATEST: 1.0}
_MIXED = "mixed-"
_RATES = {"why-recall": "the rate of stash", "why-recall-own": "each its own rate"}
_COLOURS = {"why-recall": style.OTHERS[0], "why-recall-own": style.OTHERS[3]}


def share_of(strategy: str) -> float | None:
    """The share of the latest weights; None of sequential training."""
    if strategy.startswith(_MIXED):
        return float(strategy.removeprefix(_MIXED))
    return SHARES.get(strategy)


def swept(records: Records) -> pd.DataFrame:
    """Every share in every cell against exact stashing, paired by seed; Holm's correction over all of them.

    A run that diverged, or ended hardly better than guessing, counts as guessing.

    Returns:
        Columns network, share, n, diverged, score (mean, per cent), mean, low, high (points), differences, p, better.
    """
    settings = ComparisonSettings.of(records.experiment)
    runs = with_scores(records.runs, settings)
    runs = runs.assign(score=runs["score"].fillna(runs["guess"]), share=[share_of(name) for name in runs["strategy"]])
    rows = []
    for (network, name, share), mine in runs[runs["share"].notna()].groupby(["network", "strategy", "share"]):
        both = paired_scores(runs[(runs["network"] == network) & runs["share"].notna()], name, STASH)
        gaps = (both[name] - both[STASH]).to_numpy() if name != STASH else np.zeros(len(both))
        found = paired(gaps, margin=settings.margin, level=settings.level)
        about = {"network": network, "share": share, "n": found.n, "score": both[name].mean()}
        ends = {"mean": found.mean, "low": found.low, "high": found.high, "differences": gaps}
        lost = {"diverged": int((mine["status"] == "diverged").sum())}
        rows.append(about | lost | ends | {"p": np.nan if name == STASH else found.p_superior})
    table = pd.DataFrame(rows).sort_values(["network", "share"], ascending=[False, True], ignore_index=True)
    corrected = holm(table["p"].to_numpy(dtype=float))
    return table.assign(p=corrected, better=corrected < settings.level)


@evidence.value
def recalled(causes: Mapping[str, Records]) -> dict[str, pd.DataFrame] | None:
    """Experiment -> :func:`swept`; None if there is none."""
    return {name: swept(causes[name]) for name in _RATES if name in causes} or None


@evidence.value
def recalled_said(recalled: dict[str, pd.DataFrame] | None) -> list[str]:
    """A sentence per choice of the rate."""
    said = []
    for name, table in (recalled or {}).items():
        best, total = table[table["better"]], int((table["share"] != 0).sum())
        where = "; ".join(
            f"{network_label(row.network)}, e = {row.share:g}: {interval(row.mean, row.low, row.high)} points"
            for row in best.itertuples()
        )
        answer = f"shown to be better than exact stashing in {len(best)} of {total} comparisons"
        said.append(f"With {_RATES[name]}: {answer}{f' ({where})' if where else ''}.")
    return said


@evidence.value
def recalled_table(recalled: dict[str, pd.DataFrame] | None) -> pd.DataFrame:
    """The sweep for readers."""
    rows = [
        {
            "network": network_label(row["network"]),
            "rate": _RATES[name],
            "e": f"{row['share']:g}",
            "n": row["n"],
            "accuracy": score(row["score"]),
            "against e = 0": "–" if not row["share"] else interval(row["mean"], row["low"], row["high"]),
            "diverged": row["diverged"],
            "p (better, Holm)": "–" if not row["share"] else number(3)(row["p"]),
        }
        for name, table in (recalled or {}).items()
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows, dtype=object)


@evidence.table("recalled", shown=None, when=lambda recalled: recalled is not None)
def recalled_data(recalled: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The sweep with all digits."""
    tables = [table.drop(columns="differences").assign(rate=_RATES[name]) for name, table in recalled.items()]
    return pd.concat(tables, ignore_index=True)


@evidence.figure("recalled", when=lambda recalled: recalled is not None)
def draw(recalled: dict[str, pd.DataFrame], level: float) -> Figure:
    """Draw points of test accuracy against exact stashing over the share of the latest weights, a panel per network."""
    networks = list(dict.fromkeys(name for table in recalled.values() for name in table["network"]))
    ylabel = "test accuracy minus that of\nexact stashing (points)"
    figure, axes = style.panels(networks, 2.7, "share e of the latest weights", ylabel, sharey=False)
    for place, (name, table) in enumerate(recalled.items()):
        for network, axis in axes.items():
            _sweep(axis, table[table["network"] == network], _COLOURS[name], 0.03 * place)
    shares = sorted({share for table in recalled.values() for share in table["share"]})
    for axis in axes.values():
        axis.set_xticks(shares, [f"{share:g}" for share in shares])
        axis.axhline(0, color="#777777", linewidth=0.6, zorder=1)
        axis.set_yscale("symlog", linthresh=2)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles = [style.handle(_RATES[name], color=_COLOURS[name], marker="o") for name in recalled]
    style.legend(figure, handles, title="Are mixed weights, (1 - e) old + e latest, better than exact old ones?")
    counts = ", ".join(str(n) for n in sorted({int(n) for table in recalled.values() for n in table["n"]}))
    style.note(
        figure,
        f"Large: mean of n = {counts} seeds with its {100 * (1 - 2 * level):g} % interval, paired; small: seeds. "
        "e = 0: exact stashing, e = 1: latest weights.\nA run that diverged counts as guessing (10 %). "
        "Linear between -2 and 2 points, logarithmic beyond.",
    )
    return figure


def _sweep(axis: Any, rows: pd.DataFrame, colour: str, shift: float) -> None:
    x = rows["share"] + shift
    for place, gaps in zip(x, rows["differences"], strict=True):
        axis.plot([place] * len(gaps), gaps, ".", color=colour, alpha=0.6, markersize=3.5, markeredgewidth=0)
    ends = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
    axis.errorbar(x, rows["mean"], ends, color=colour, marker="o", capsize=2, linewidth=1)
