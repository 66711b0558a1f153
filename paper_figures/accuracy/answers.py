"""The three answers that a reader wants first, from the cells of the default study: in words, and in a picture."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.designs import LATEST, SEQUENTIAL, pipeline_aware
from layerpipe2.lab.judging.statistics import paired
from layerpipe2.lab.looks import ordered
from layerpipe2.strategies import find_strategy
from paper_figures import style
from paper_figures.accuracy.assay import NOT_NEEDED, Assay, in_place_of_a_verdict
from paper_figures.page import report
from paper_figures.records import Records
from paper_figures.text import listed, network_label, setting, span
from paper_figures.verdicts import OUTCOMES, Answer


@report.value
def answers(judged: Assay, originals: Sequence[str]) -> pd.DataFrame | None:
    """Question and answer: whether old weights matter, whether an average stands in for them, what the delay costs.

    And what runs of the paper's network and data said, if there are any. None without cells.
    """
    if not len(judged.costs):
        return None
    rows = [
        ("Does it matter which weights the backward pass uses?", _matter(judged)),
        ("Can a moving average stand in for the stored ones?", _stand_in(judged)),
        ("Is pipelining then free?", _delay(judged)),
        *(("And for the paper's network and data?", text) for text in originals),
    ]
    return pd.DataFrame(rows, columns=["question", "answer"])


def _matter(found: Assay) -> str:
    cells = found.costs.to_dict("records")
    costly = [f"{_name(cell)} ({_lost(cell)})" for cell in cells if cell["sensitive"]]
    words = [(cell, in_place_of_a_verdict(cell)) for cell in cells]
    needless = [f"{_name(cell)} (less than {cell['margin']:.1f} points)" for cell, word in words if word == NOT_NEEDED]
    silent = [_name(cell) for cell, word in words if word not in ("", NOT_NEEDED)]
    said = [f"Yes: the latest weights lose against stored ones for {listed(costly)}" if costly else ""]
    said += [f"hardly for {listed(needless)}" if needless else ""]
    said += [f"these runs can't tell for {listed(silent)}" if silent else ""]
    return _sentence(said)


def _stand_in(found: Assay) -> str:
    names = [name for name in ordered(found.rules["strategy"]) if name != LATEST]
    aware = pipeline_aware(names)
    if not found.costs["sensitive"].any():
        return "These runs can't tell: nothing is lost without old weights."
    said = " ".join(_of_strategy(found, name, follows=name in aware) for name in names)
    return f"In brackets, what is won back of that loss. {said}"


def _of_strategy(found: Assay, name: str, *, follows: bool) -> str:
    rows = found.sensitive.rules[found.sensitive.rules["strategy"] == name].to_dict("records")
    words: dict[Answer, list[str]] = {}
    for row in rows:
        share = f" ({100 * row['share']:.0f} %)" if math.isfinite(row["share"]) else ""
        words.setdefault(OUTCOMES.get(row["outcome"], Answer.UNDECIDED), []).append(f"{_name(row)}{share}")
    said = {Answer.YES: "yes for {}", Answer.NO: "no for {}", Answer.UNDECIDED: "not decided for {}"}
    parts = [text.format(listed(words[answer])) for answer, text in said.items() if answer in words]
    what = f"{find_strategy(name).label}{', which follows the delay' if follows else ''}"
    return f"{what}: {'; '.join(parts)}."


def _delay(found: Assay) -> str:
    cells = found.costs.to_dict("records")
    costs = [f"{_name(cell)} {cell['delay']:.1f}" for cell in cells]
    return f"No. With exact old weights, late gradients still cost, in points of accuracy: {listed(costs)}."


def _lost(cell: Mapping[str, Any]) -> str:
    diverged = cell["diverged_latest"]
    points = f"{cell['inconsistency']:.1f} points"
    return f"{points}, and {diverged} of {cell['seeds']} runs diverged" if diverged else points


def _name(cell: Mapping[str, Any]) -> str:
    return network_label(cell["network"])


def _sentence(parts: Iterable[str]) -> str:
    text = "; ".join(filter(None, parts))
    return f"{text[:1].upper()}{text[1:]}."


def _has_both(records: Records) -> bool:
    return "tuned" in set(records.runs["rate"]) and SEQUENTIAL in set(records.runs["strategy"])


@report.figure("accuracy_and_copies", data="results/runs.csv", when=_has_both)
def accuracy_and_copies(records: Records, level: float) -> Figure:
    """Mean accuracy minus that of sequential training with the same seed, over copies of the weights.

    A panel per network, each at its largest number of stages; the intervals are those of 1 - 2 level.
    """
    tables = {name: _differences(records.runs[records.runs["network"] == name], level) for name in records.networks}
    figure, axes = style.canvas(2.75, columns=len(tables), rows=1, sharey=True)
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=True):
        _panel(axis, table)
        axis.set_title(f"{network_label(name)}\n{table['stages'].iloc[0]} stages")
        axis.set_xlabel("copies of the weights kept")
    axes[0, 0].set_ylabel("accuracy minus that of\nsequential training (points)")
    every = pd.concat(tables.values())
    style.legend(
        figure,
        style.handles(every["strategy"], linestyle=""),
        6,
        "Accuracy that a pipeline loses, against the weights it keeps",
    )
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


_PAPER: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def _panel(axis: Any, table: pd.DataFrame) -> None:
    axis.axhline(0, color="#444444", linewidth=0.6)
    for row in table.to_dict("records"):
        look = style.line(row["strategy"], linestyle="")
        ends = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axis.errorbar(row["copies"], row["mean"], yerr=ends, elinewidth=0.9, capsize=2, **look)
        if row["lost"]:
            text = f"{row['lost']} of {row['of']} diverged"
            axis.annotate(
                text,
                (row["copies"], row["mean"]),
                (6, 0),
                textcoords="offset points",
                fontsize=6.5,
                va="bottom",
                bbox=_PAPER,
                zorder=5,
            )
    axis.set_xlim(left=-0.06 * table["copies"].max())
    axis.margins(x=0.12)
    style.integer_ticks(axis)


def _note(records: Records, table: pd.DataFrame, level: float) -> str:
    seeds = span(table["n"], "{:.0f}".format)
    return (
        f"Mean over n = {seeds} seeds of the runs that completed, paired by seed; lines: {100 * (1 - 2 * level):g} % "
        f"intervals. Accuracy 0: that of no pipeline.\nCopies: modelled, beside the latest weights. "
        f"{setting(records.dataset, records.convention)}"
    )
