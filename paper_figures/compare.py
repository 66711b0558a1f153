"""Published results and those of this folder side by side: verdicts, cells, and every value behind them.

Run: python -m paper_figures.compare [REV]

Values are matched by what names them (a run by its experiment, network, partition, strategy, seed and rate), never by
file or line. Published are those of the commit that is checked out, or of REV. Two values are equal to rounding if they
differ by at most 1e-5 of the larger one. Exit code 0: every verdict is the same; 1: one differs; 2: bad input.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command, terminal_width
from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import PIPELINE
from layerpipe2.lab.looks import ordered
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import read_json
from layerpipe2.strategies import find_strategy
from paper_figures import published
from paper_figures.accuracy.assay import in_place_of_a_verdict
from paper_figures.page import ROOT, Built, fill
from paper_figures.published import PAGES, RESULTS
from paper_figures.read import TEXT
from paper_figures.records import KEYS as TABLES

REPORT = "report"
"""The page that ``make reproduce`` makes of its own training runs."""


KEYS: Mapping[str, tuple[str, ...]] = {
    **{name: tuple(key) for name, key in TABLES.items()},
    "examples": ("network", "group_size", "rate", "strategy", "reference"),
    "tuning": ("network", "stages", "strategy", "round", "trial"),
}
"""Tables of an experiment, and the columns that name a row."""


THEORY: Mapping[str, tuple[str, ...]] = {
    "proofs": ("network", "group_size", "convention", "claim"),
    "partitions": ("network", "group_size"),
    "schedules": ("network", "processors", "schedule"),
    "devices": ("device", "network", "processors", "schedule"),
    "spikepipe": ("array", "network", "processors", "placement", "steps"),
    "stability": ("panel", "series", "x"),
}
"""The same of the tables in the folder ``theory``."""


_DESCRIPTION = "experiment.json"
"""What names an experiment, beside its tables."""


_REMEDY = "run: make reproduce"


@dataclass(frozen=True)
class Results:
    """The results in a folder: verdicts by page, outcomes by cell, and values by table.

    Attributes:
        top: the folder that holds ``results`` and ``paper_figures/out``.
        name: what they are, in words.
    """

    top: Path
    name: str

    @cached_property
    def verdicts(self) -> dict[tuple[str, str], str]:
        """(page, claim or question) -> verdict."""
        pages = self.top / PAGES
        found: dict[tuple[str, str], str] = {}
        for path in sorted(pages.rglob("verdicts.json"), key=lambda path: (len(path.parts), path)):
            page = page_name(pages, path)
            found |= {(page, key): str(word) for key, word in json.loads(path.read_text(encoding="utf-8")).items()}
        return found

    @cached_property
    def outcomes(self) -> dict[tuple[str, str, str], dict[str, str]]:
        """(page, cell, what names its pipeline) -> strategy -> outcome, or what stands in its place."""
        pages = self.top / PAGES
        found: dict[tuple[str, str, str], dict[str, str]] = {}
        for path in sorted(pages.rglob("tables/*.csv"), key=lambda path: (len(path.parts), path)):
            table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
            if {*PIPELINE, "strategy", "outcome", "sensitive", "trained", "needless", "cell"} <= {*table}:
                for row, pipeline in zip(table.to_dict("records"), pipelines(table), strict=True):
                    cell = found.setdefault((page_name(pages, path.parent), str(row["cell"]), pipeline), {})
                    cell[str(row["strategy"])] = in_place_of_a_verdict(row) or str(row["outcome"])
        return found

    @cached_property
    def tables(self) -> dict[tuple[str, str], pd.DataFrame]:
        """(experiment, table) -> values, indexed by what names them.

        Raises:
            UserError: if there is no experiment, or a table isn't one of these.
        """
        results = self.top / RESULTS
        folders = [path.parent for path in sorted(results.rglob("runs.csv")) if (path.parent / _DESCRIPTION).is_file()]
        if not folders:
            raise UserError(f"{self.name} has no results in today's layout; give REV a later commit")
        places = [(experiment_name(folder), folder, KEYS) for folder in folders]
        places += [("theory", results / "theory", THEORY)]
        paths = {(name, stem): (folder / f"{stem}.csv", key) for name, folder, k in places for stem, key in k.items()}
        return {pair: self._read(path, key) for pair, (path, key) in paths.items() if path.is_file()}

    def _read(self, path: Path, key: Sequence[str]) -> pd.DataFrame:
        what = f"{path.relative_to(self.top)} of {self.name}"
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
        if missing := [column for column in key if column not in table]:
            raise UserError(f"{what} has no column {missing[0]}, so it can't be compared; give REV a later commit")
        table = table.set_index(list(key))
        if not table.index.is_unique:
            twice = table.index[table.index.duplicated()][0]
            raise UserError(f"{what} has two rows for {row_name(twice)}; collect the experiment anew")
        return table

    @property
    def own_experiment(self) -> str:
        """The name of the experiment that ``make reproduce`` trains: its tables lie beside its records."""
        folder = self.top / RESULTS
        return experiment_name(folder) if (folder / _DESCRIPTION).is_file() else ""

    @cached_property
    def machine(self) -> str:
        """Versions and device of the training runs that ``make reproduce`` makes; empty if there are no records."""
        paths = cell_file.find(self.top / RESULTS / "runs")
        record = cell_file.read(paths[0]) if paths else None
        if record is None:
            return ""
        where = record["provenance"]
        return ", ".join([*(f"{name} {version}" for name, version in where["versions"].items()), where["device"]])


def page_name(pages: Path, path: Path) -> str:
    """The name of the page that a file belongs to: that of its folder, and of those at the top the report."""
    return path.parent.relative_to(pages).as_posix().replace(".", REPORT)


def experiment_name(folder: Path) -> str:
    """The name of the experiment whose tables are in a folder."""
    return str(read_json(folder / _DESCRIPTION, _REMEDY)["name"])


def pipelines(table: pd.DataFrame) -> list[str]:
    """What names each row's pipeline and the choice of its rate, as one text."""
    return ["|".join(map(str, row)) for row in table[list(PIPELINE)].itertuples(index=False)]


def row_name(index: Any) -> str:
    """What names a row, in words."""
    return " ".join(map(str, index if isinstance(index, tuple) else (index,)))


ROUNDING = 1e-5
"""Relative difference up to which two values are equal to rounding."""


SAME = "yes"
"""In the column that says whether two verdicts are the same."""


_MACHINES_OWN = {"device", "commit"}
"""Columns that say where a value comes from."""


_BEHIND = {
    **dict.fromkeys(("C1", "C2", "C3"), ("stages", "proofs")),
    **{"C4": ("proofs",), "C5": ("stages", "partitions"), "C6": ("runs", "examples"), "C7": ("partitions",)},
    "C8": ("runs", "examples"),
}
"""Claim -> the tables that its verdict rests on."""


@dataclass(frozen=True)
class Difference:
    """How far two tables of the same form differ.

    Attributes:
        rows: rows that both have.
        differing: those of them that differ in a value.
        missing: rows that only the published one has.
        new: rows that only the other one has.
        largest: relative difference of two numbers; infinite where texts differ or one of two numbers is missing.
        where: the row and the column of the largest difference, and the two values.
    """

    rows: int = 0
    differing: int = 0
    missing: int = 0
    new: int = 0
    largest: float = 0.0
    where: str = ""

    @property
    def words(self) -> str:
        """What is to be said of it."""
        others = [f"{self.missing} missing here"] * bool(self.missing) + [f"{self.new} only here"] * bool(self.new)
        if not others and self.largest <= ROUNDING:
            return f"equal to rounding ({self.largest:.1g})" if self.largest else "equal"
        some = [f"{self.differing} of {self.rows} rows differ; most: {self.where}"] if self.differing else []
        return "; ".join(some + others)


def difference(before: pd.DataFrame, after: pd.DataFrame) -> Difference:
    """How far the values in ``after`` are from those in ``before``, row by row as the indices name them."""
    rows = before.index.intersection(after.index)
    found = Difference(len(rows), missing=len(before) - len(rows), new=len(after) - len(rows))
    columns = [column for column in before if column in after and column not in _MACHINES_OWN]
    if not len(rows) or not columns:
        return found
    old, new = before.loc[rows, columns], after.loc[rows, columns]
    apart = np.column_stack([_apart(old[column], new[column]) for column in columns])
    row, column = np.unravel_index(int(apart.argmax()), apart.shape)
    where = f"{row_name(rows[row])}: {columns[column]} {old.iat[row, column]} -> {new.iat[row, column]}"
    return replace(found, differing=int((apart > 0).any(axis=1).sum()), largest=float(apart.max()), where=where)


def _apart(old: pd.Series, new: pd.Series) -> np.ndarray:
    """Relative difference of each pair; infinite if they are texts that differ, or only one is there."""
    if not all(pd.api.types.is_numeric_dtype(one) and one.dtype != bool for one in (old, new)):
        return np.where(old.astype(str).to_numpy() == new.astype(str).to_numpy(), 0.0, np.inf)
    a, b = old.to_numpy(float), new.to_numpy(float)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.finfo(float).tiny)
    apart = np.where(a == b, 0.0, np.abs(a - b) / scale)
    return np.where(np.isnan(a) & np.isnan(b), 0.0, np.where(np.isnan(apart), np.inf, apart))


@dataclass(frozen=True)
class Comparison:
    """Published results and those here."""

    before: Results
    after: Results

    @cached_property
    def differences(self) -> dict[tuple[str, str], Difference]:
        """(experiment, table) -> how far it is from the published one; tables that aren't published are left out."""
        nothing = {pair: table.iloc[:0] for pair, table in self.before.tables.items()}
        here = nothing | self.after.tables
        return {pair: difference(table, here[pair]) for pair, table in self.before.tables.items()}

    @property
    def changed(self) -> list[str]:
        """Claims, questions and cells whose verdict is another one here."""
        asked = [f"{page}: {key}" for page, key in _unlike(self.before.verdicts, self.after.verdicts)]
        return asked + [cell for _, cell, _ in _unlike(self.before.outcomes, self.after.outcomes)]

    def claims(self) -> pd.DataFrame:
        """A row per claim and question: page, published, here, whether they are the same, largest difference."""
        old, new = self.before.verdicts, self.after.verdicts
        rows = []
        for page, key in dict.fromkeys([*old, *new]):
            apart = self._behind(key) if page == REPORT else "–"
            rows.append((page, key, *_pair(old.get((page, key), "–"), new.get((page, key), "–")), apart))
        return _frame("claim", rows)

    def _behind(self, claim: str) -> str:
        """Largest relative difference in the tables behind a claim."""
        own = (self.after.own_experiment, "theory")
        behind = _BEHIND.get(claim, ())
        found = [d.largest for (name, stem), d in self.differences.items() if name in own and stem in behind]
        return _size(max(found, default=0.0))

    def cells(self) -> pd.DataFrame:
        """A row per cell: the outcomes of its strategies, published and here, and the most that a run differs."""
        old, new = self.before.outcomes, self.after.outcomes
        rows = []
        for place in dict.fromkeys([*old, *new]):
            page, cell, pipeline = place
            outcomes = _pair(_grouped(old.get(place, {})), _grouped(new.get(place, {})))
            rows.append((page, cell, *outcomes, self._scores.get(pipeline, "–")))
        return _frame("cell", rows)

    @cached_property
    def _scores(self) -> dict[str, str]:
        """Pipeline -> the most that the test accuracy of one of its runs differs, or that a run ended otherwise."""
        found: dict[str, float] = {}
        for pair, before in self.before.tables.items():
            if pair[1] == "runs" and pair in self.after.tables:
                after = self.after.tables[pair]
                rows = before.index.intersection(after.index)
                old, new = before.loc[rows], after.loc[rows]
                apart = 100 * (old["test_accuracy"] - new["test_accuracy"]).abs().fillna(0)
                apart = apart.where(old["status"] == new["status"], np.inf)
                for pipeline, most in apart.groupby(pipelines(old.reset_index())).max().items():
                    found[str(pipeline)] = max(found.get(str(pipeline), 0.0), float(most))
        return {p: "a run diverged" if np.isinf(most) else f"{most:.2g} points" for p, most in found.items()}

    def tables(self) -> pd.DataFrame:
        """A row per experiment and table: rows, and how far they differ."""
        rows = [(name, stem, str(d.rows), d.words) for (name, stem), d in self.differences.items()]
        return pd.DataFrame(rows, columns=["experiment", "table", "rows", "difference"], dtype=object)

    @property
    def summary(self) -> str:
        """The outcome in a sentence."""
        found = self.differences.values()
        complete = not any(d.missing or d.new for d in found)
        largest = max((d.largest for d in found), default=0.0)
        values = sum(d.rows for d in found)
        apart = sum(d.differing for d in found)
        how = f"{apart} of {values} rows differ" + ("" if complete else ", and others have no partner")
        if complete and largest <= ROUNDING:
            how = f"all {values} rows are equal" + (
                f" to rounding (largest difference {largest:.1g})" if largest else ""
            )
        changed = self.changed
        verdicts = (
            f"{len(changed)} verdicts differ ({'; '.join(changed[:3])})" if changed else "every verdict is the same"
        )
        return f"{how[0].upper()}{how[1:]}; {verdicts}."

    @property
    def machines(self) -> str:
        """Where the training runs of both come from."""
        old, new = self.before.machine, self.after.machine
        if old == new:
            return f"Both: {new}." if new else ""
        return f"Published: {old or 'unknown'}. Here: {new or 'unknown'}."

    def page(self) -> Built:
        """All of it as a page beside the report."""
        content = {"before": self.before.name, "summary": self.summary, "machines": self.machines}
        frames = {"claims": self.claims(), "cells": self.cells(), "tables": self.tables()}
        return Built({"compare": fill(ROOT / "compare.md", content | frames)})


def _unlike(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> list[Any]:
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _pair(before: str, after: str) -> tuple[str, str, str]:
    return before, after, SAME if before == after else "NO"


def _grouped(outcomes: Mapping[str, str]) -> str:
    """``equivalent: EMA span, pair; worse: latest``."""
    named: dict[str, list[str]] = {}
    for name in ordered(outcomes):
        named.setdefault(outcomes[name], []).append(find_strategy(name).label)
    words = [f"{word}: {', '.join(names)}" for word, names in sorted(named.items())]
    return next(iter(named), "–") if len(named) < 2 else "; ".join(words)


def _frame(first: str, rows: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["page", first, "published", "here", "same", "largest difference"], dtype=object)


def _size(largest: float) -> str:
    return "0" if not largest else "not comparable" if np.isinf(largest) else f"{largest:.1g} relative"


def _printed(found: Comparison) -> Iterator[str]:
    """What the terminal shows: the report's claims and cells, and what differs elsewhere."""
    yield f"Published: {found.before.name}. Here: {found.after.name}. {found.machines}"
    width, alike = max(terminal_width(), 80), 0
    wide = [max(width // 5, 16), *[(width * 4 // 5 - 32) // 2] * 2, 4, 14]
    for frame in (found.claims(), found.cells()):
        shown = (frame["page"] == REPORT) | (frame["same"] != SAME)
        alike += int((~shown).sum())
        yield _drawn(frame[shown].drop(columns="page"), wide)
    tables = found.tables()
    if len(apart := tables[tables["difference"] != "equal"]):
        yield _drawn(apart, [18, 14, 6, width - 46])
    yield f"On the other pages {alike} more claims, questions and cells are the same."
    yield found.summary


def _drawn(frame: pd.DataFrame, widths: Sequence[int]) -> str:
    rows = frame.to_numpy().tolist()
    return str(tabulate(rows, [*frame], "simple", maxcolwidths=widths, disable_numparse=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, and with ``--page`` write the page.

    Raises:
        SystemExit: with 1 if a verdict differs.
    """
    parser = Parser(prog="python -m paper_figures.compare", description=__doc__)
    parser.add_argument("revision", nargs="?", metavar="REV", help="a commit; default: the one that is checked out")
    parser.add_argument("--page", action="store_true", help=f"write {published.PAGES}/compare/compare.md too")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as into:
        before = Results(*published.folder(root, Path(into), options.revision or None))
        found = Comparison(before, Results(root, "this folder"))
        print("\n\n".join(_printed(found)))
        if options.page:
            print(f"\nThe same as a page: {found.page().write(root / published.PAGES / 'compare').relative_to(root)}")
        if found.changed:
            raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(run_command("paper_figures.compare", main, None))
