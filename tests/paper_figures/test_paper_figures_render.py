"""HTML tables: numbers never break across lines, prose does."""

from __future__ import annotations

import re

import pandas as pd

from paper_figures.render import Heading, Table, html

_LONG = "the delay of a layer follows from the structure of the network alone"


def _classes(**columns: list[str]) -> dict[str, set[str]]:
    """Column -> the classes of its heading and of its cells; '' is none."""
    page = html([Heading("T", 1), Table(pd.DataFrame(columns))], {})
    cell = re.compile(r'<t[hd](?: scope="col")?(?: class="(\w+)")?>')
    rows = [cell.findall(row) for row in re.findall(r"<tr>.*?</tr>", page)]
    assert len(rows) == 1 + len(next(iter(columns.values())))
    return dict(zip(columns, map(set, zip(*rows, strict=True)), strict=True))


def test_columns_are_styled_by_what_they_hold() -> None:
    found = _classes(
        statement=[_LONG, "short"],
        difference=["-0.22 [-1.35, +0.90]", "–"],
        accuracy=["94.22 ± 0.38 (n=3)", "3 of 3 diverged"],
        schedule=["1F1B", "GPipe"],
        device=["128 × 128, output stationary, all of 1 GHz", "FLOP/s only"],
    )
    assert found == {
        "statement": {"prose"},
        "difference": {"number"},
        "accuracy": {"number"},
        "schedule": {""},
        "device": {"prose"},
    }


def test_an_empty_table_has_no_classes() -> None:
    assert _classes(n=[], verdict=[]) == {"n": {""}, "verdict": {""}}


def test_the_page_keeps_cells_whole_and_lets_tables_scroll() -> None:
    page = html([Heading("T", 1), Table(pd.DataFrame({"n": ["3"]}))], {})
    styles = dict(re.findall(r"^([^{}\n]+) \{ (.*) \}$", page, re.MULTILINE))
    assert "white-space: nowrap" in styles["td"]
    assert {"min-width", "white-space"} <= set(re.findall(r"[\w-]+(?=:)", styles["td.prose"]))
    assert "white-space: normal" in styles["td.prose"]
    assert "text-align: right" in styles["td.number, th.number"]
    assert '<div class="wide"><table>' in page
    assert "overflow-x: auto" in styles[".wide"]
