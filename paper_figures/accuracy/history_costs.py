"""What the delay and the choice of the backward weights cost: bars with intervals, one panel per cell."""

from textwrap import fill, wrap
from typing import Any

import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import find_strategy
from paper_figures import style
from paper_figures.accuracy.assay import CANNOT_TELL, NOT_NEEDED, UNTRAINED, Assay, in_place_of_a_verdict
from paper_figures.page import report
from paper_figures.text import amount, span

_SMALLEST = 3.0
"""The axis reaches at least to so many margins."""


_TITLE = {1: 90, 2: 50, 3: 32}
"""Columns -> letters of a line of a panel's title."""


_NOTE = 118
"""Letters of a line of the note."""


_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85}
"""Behind a text that lies over a bar."""


_WORDS = {
    CANNOT_TELL: "'latest' isn't shown to lose more than the margin, nor less",
    NOT_NEEDED: "'latest' is shown to lose less than the margin",
    UNTRAINED: "stashing gains less than half of what sequential training does",
}
"""What stands in titles, in words."""


_KEPT_TOGETHER = (" stages", " delays", *_WORDS)
"""Words between which no line of a title ends."""


_WORD = 0.42
"""The share of an axis that a count of diverged runs takes, beside its bar."""


_FARTHEST = 20.0
"""And at most to so many, to either side: longer bars are cut, and their value is written."""


@report.figure("history_costs", data="assay_rules", when=lambda judged: len(judged.costs))
def history_costs(judged: Assay, level: float, where: str) -> Figure:
    """Loss against exact stashing of every strategy, and above it what the delay costs stashing itself.

    Args:
        judged: the cells.
        level: of the tests; the intervals are those of 1 - 2 level.
        where: data and delay law, for the note below the panels.
    """
    cells = judged.costs.to_dict("records")
    names = ordered(judged.rules["strategy"])
    columns = 2 if len(cells) in (2, 4) else min(3, len(cells))
    rows = -(-len(cells) // columns)
    height = 1.5 + rows * (0.68 + 0.12 * (columns > 2) + 0.155 * (len(names) + 1))
    figure, axes = style.canvas(height, columns, rows, len(cells), sharey=True)
    marks: set[str] = set()
    for cell, axis in zip(cells, axes.flat, strict=False):
        marks |= _panel(axis, cell, judged.rules, names)
        axis.set_title(_title(cell, _TITLE[columns]))
        axis.set_xlabel(_xlabel(cell, judged))
    style.title(figure, _message(judged))
    style.note(figure, _note(judged, level, where, marks))
    return figure


def _panel(axis: Any, cell: dict[str, Any], rules: pd.DataFrame, names: list[str]) -> set[str]:
    """Draws a cell; returns what its marks are, for the note: "bar" and "line" that are cut, "lost" runs."""
    rows = [("", cell["delay"], cell["delay_low"], cell["delay_high"], SEQUENTIAL)]
    known = rules[rules["cell"] == cell["cell"]].set_index("strategy").to_dict("index")
    rows += [_row(name, cell, known.get(name), shared="p_keeps" in rules) for name in names]
    start, end = _ends(rows, cell["margin"])
    axis.axvspan(-cell["margin"], cell["margin"], color="#e6e6e6", zorder=0, linewidth=0)
    axis.axvline(0, color="#444444", linewidth=0.6)
    marks = [_bar(axis, place, row, start, end) for place, row in enumerate(rows)]
    axis.set_yticks(range(len(rows)), ["delay alone", *(find_strategy(name).label for name in names)])
    axis.set(ylim=(len(rows) - 0.4, -0.6), xlim=(start, end))
    axis.grid(False, axis="y")
    return set().union(*marks)


def _title(cell: dict[str, Any], letters: int) -> str:
    title = ": ".join(filter(None, [cell["cell"], in_place_of_a_verdict(cell)]))
    for words in _KEPT_TOGETHER:
        title = title.replace(words, words.replace(" ", "\N{NO-BREAK SPACE}"))
    return fill(title, letters)


def _row(name: str, cell: dict[str, Any], row: dict[str, Any] | None, *, shared: bool) -> tuple[Any, ...]:
    """How many diverged, in words, a strategy's cost with its ends, and its name; the cost is NaN if it wasn't run.

    Where the rule isn't that of shares, it has no cost if a run diverged: then it is infinite.
    """
    if name == "latest":
        lost, of = cell["diverged_latest"], cell["seeds"]
        cost = tuple(cell[f"inconsistency{end}"] for end in ("", "_low", "_high"))
    elif row is None:
        return "", float("nan"), 0.0, 0.0, name
    else:
        lost, of = row["lost"], row["pairs"] if shared else row["lost"] + row["n"]
        cost = -row["mean"], -row["high"], -row["low"]
    if lost and not shared:
        cost = float("inf"), 0.0, 0.0
    return f"{lost} of {of} diverged" if lost else "", *cost, name


def _xlabel(cell: dict[str, Any], found: Assay) -> str:
    """What is drawn, its unit, the number of seeds of the bars and the margin."""
    mine = found.rules[(found.rules["cell"] == cell["cell"]) & (found.rules["n"] > 0)]
    seeds = mine["n"] if _by_share(found) else mine.loc[mine["lost"] == 0, "n"]
    what = "loss" if cell["unit"] == "nats" else "accuracy"
    return (
        f"cost ({cell['unit']} of test {what})\nn = {span(seeds)} seeds\nmargin {amount(cell['margin'], cell['unit'])}"
    )


def _message(found: Assay) -> str:
    """The title: which cells these are."""
    if set(found.costs["rate"]) == {"common"}:
        return "With one learning rate for all pipelines: what each strategy costs beside exact stashing"
    if not (found.costs["sensitive"] | found.costs["needless"]).any():
        return "Where the runs can't tell if old weights are needed: late gradients and each strategy"
    if _by_share(found):
        return "Default study: what late gradients cost, and what each strategy costs beside exact stashing"
    return "With a rate of its own: what each strategy costs beside exact stashing, and the delay before"


def _ends(rows: list[tuple[Any, ...]], margin: float) -> tuple[float, float]:
    """Of the axis: all intervals fit, unless they are longer than :data:`_FARTHEST` margins."""
    lowest = min((row[2] for row in rows if row[2] == row[2]), default=0.0)
    highest = max((row[3] for row in rows if row[3] == row[3]), default=0.0)
    start = max(min(1.1 * lowest, -1.3 * margin), -_FARTHEST * margin)
    beside = max(((row[3] - _WORD * start) / (1 - _WORD) for row in rows if row[0]), default=0.0)
    return start, min(max(1.1 * highest, _SMALLEST * margin, beside), _FARTHEST * margin)


def _bar(axis: Any, place: int, row: tuple[Any, ...], start: float, end: float) -> set[str]:
    """A bar with its interval; arrows where the interval is cut, the value in words where the bar is."""
    lost, mean, low, high, name = row
    if mean != mean:
        axis.text(0, place, " not run", va="center", fontsize=7, color="#777777", bbox=_PAPER)
        return set()
    marks = {"lost"} if lost else set()
    looks = look(name)
    filled = {"color": looks.colour, "alpha": 0.55 if name == SEQUENTIAL else 0.75, "linewidth": 0}
    outline = {"facecolor": "white", "edgecolor": looks.colour, "linewidth": 1.2}
    hollow = find_strategy(name).raw
    if lost:
        axis.plot(end, place, "x", color="#222222", markersize=4, clip_on=False)
        axis.text(0.96 * end, place, lost, ha="right", va="center", fontsize=7, zorder=5, bbox=_PAPER)
        if not start < mean < end:
            return marks
    axis.barh(place, min(max(mean, start), end), height=0.66, **outline if hollow else filled)
    if start < mean < end:
        axis.plot([max(low, start), min(high, end)], [place, place], color="#222222", linewidth=0.9)
        axis.plot(mean, place, "o", color="#222222", markersize=2.4)
        for edge, cut, marker in ((start, low < start, "<"), (end, high > end, ">")):
            if cut:
                marks.add("line")
                axis.plot(edge, place, marker, color="#222222", markersize=3.5, clip_on=False)
    elif not lost:
        marks.add("bar")
        text = f"{mean:.2g}" if abs(mean) < 10 else f"{mean:.0f}"
        edge, side = (end, "right") if mean > 0 else (start, "left")
        ink = _ink("white" if hollow else looks.colour)
        axis.text(0.97 * edge, place, text, ha=side, va="center", fontsize=7, color=ink, fontweight="bold")
        axis.text(0.78 * edge, place, "//", ha="center", va="center", fontsize=11, color="white", fontweight="bold")
    return marks


def _ink(colour: str) -> str:
    """What is legible on a bar of this colour."""
    red, green, blue = to_rgb(colour)
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "#222222"


def _note(found: Assay, level: float, where: str, marks: set[str]) -> str:
    used = set(map(in_place_of_a_verdict, found.costs.to_dict("records")))
    words = "; ".join(f"{word}: {meaning}" for word, meaning in _WORDS.items() if word in used)
    words += "." if words else ""
    drawn = {
        "bar": f"//: a bar that is cut at {_FARTHEST:g} margins; the number is its value.",
        "line": "Arrows: the line goes on.",
        "lost": f"x with a count: so many runs diverged or ended at guessing; {_length(found)}.",
    }
    raw = (
        "Outlined (raw): the average is over learning rate x gradient instead of updates."
        if any(find_strategy(n).raw for n in found.rules["strategy"])
        else ""
    )
    sentences = (
        "'delay alone': what exact stashing loses against sequential training; others: what each loses against exact "
        "stashing.",
        f"Dots: means; lines: {_intervals(found, level)} over seeds, fewer where runs diverged or a strategy "
        "had fewer. Grey: the margin.",
        *(text for mark, text in drawn.items() if mark in marks),
        raw,
        words,
        where,
    )
    return "\n".join(line for sentence in sentences for line in wrap(sentence, _NOTE))


def _by_share(found: Assay) -> bool:
    """Whether divergences are counted apart from the accuracies of the runs that completed."""
    return "p_keeps" in found.rules


def _intervals(found: Assay, level: float) -> str:
    return (
        f"intervals of the tests that decide (level {100 * level:g} %)"
        if _by_share(found)
        else f"{100 * (1 - 2 * level):g} % intervals"
    )


def _length(found: Assay) -> str:
    return "the bar is that of the others" if _by_share(found) else "no cost is given"
