"""Tables of a tuned experiment, as text for readers."""

from collections.abc import Mapping

import pandas as pd

from layerpipe2.history import find_strategy
from paper_figures.records.tuned import TunedRecords
from paper_figures.statistics import summary
from paper_figures.style import ordered
from paper_figures.text import mean_spread, number, plural
from paper_figures.verdicts import outcome_word


def accuracy(records: TunedRecords) -> pd.DataFrame:
    """Mean, spread and n of the test accuracy: rows are strategies, columns are optimizer and number of stages."""
    runs = records.runs
    columns = list(dict.fromkeys(zip(runs["optimizer"], runs["num_stages"], strict=True)))
    rows = []
    for name in ordered(runs["strategy"]):
        row = {"strategy": find_strategy(name).label}
        for optimizer, stages in columns:
            mine = runs[(runs["optimizer"] == optimizer) & (runs["num_stages"] == stages) & (runs["strategy"] == name)]
            found, diverged = summary(100 * mine["test_accuracy"]), int((mine["status"] == "diverged").sum())
            title = f"{optimizer}, {plural(stages, 'stage')}"
            row[title] = mean_spread(found.mean, found.sd, found.n, diverged)
        copies = runs.loc[runs["strategy"] == name, "history_copies"].max()
        rows.append(row | {"copies of the weights": number(1)(copies)})
    return pd.DataFrame(rows)


def comparison(table: pd.DataFrame, p_value: str) -> pd.DataFrame:
    """A family of comparisons; ``p_value`` is the hypothesis that is shown, ``equivalent`` or ``superior``."""
    return pd.DataFrame([_comparison(row, p_value) for row in table.to_dict("records")])


def _comparison(row: Mapping[str, float], p_value: str) -> dict[str, str]:
    shown = {
        "optimizer": str(row["optimizer"]),
        "stages": str(row["num_stages"]),
        "strategy": find_strategy(str(row["strategy"])).label,
        "n": str(row["n"]),
        "difference (points)": _with_interval(row, "mean", "+.2f") if row["n"] else "–",
        "SD": number(2)(row["sd"]),
        "diverged alone": str(row["lost"]),
        f"p ({p_value}, Holm)": number(4)(row[f"p_{p_value}"]),
        "test-set error": number(2)(row["image_error"]),
    }
    return shown | ({"verdict": outcome_word(str(row["outcome"]), int(row["n"]))} if p_value == "equivalent" else {})


def _with_interval(row: Mapping[str, float], value: str, form: str) -> str:
    return f"{row[value]:{form}}" + (f" [{row['low']:{form}}, {row['high']:{form}}]" if row["n"] > 1 else "")


def trends(table: pd.DataFrame) -> pd.DataFrame:
    """Slopes of the difference to stash, per stage."""
    rows = [
        (
            row["optimizer"],
            find_strategy(row["strategy"]).label,
            row["n"],
            _with_interval(row, "slope", "+.3f"),
            row["p"],
        )
        for row in table.to_dict("records")
    ]
    shown = pd.DataFrame(rows, columns=["optimizer", "strategy", "n", "points per stage", "p (no slope)"])
    return shown.assign(**{"p (no slope)": shown["p (no slope)"].map(number(4))})


def chosen(records: TunedRecords) -> pd.DataFrame:
    """The learning rate of every cell; an asterisk where it is the smallest or the largest that was tried."""
    rows = []
    for name in ordered(records.chosen["strategy"]):
        mine = records.chosen[records.chosen["strategy"] == name].itertuples()
        cells = {f"{r.optimizer}, {r.num_stages}": f"{r.lr:g}{'*' if r.edge else ''}" for r in mine}
        rows.append({"strategy": find_strategy(name).label} | cells)
    return pd.DataFrame(rows).fillna("–")
