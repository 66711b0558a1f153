"""Copies of finished records in an MLflow experiment. What is unchanged stays, a rerun replaces its run.

A cell is copied whole: if one of its records is new or another than before, its copy is removed and made again. It is
closed last, so that a copy which was cut off is recognized.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities import Run

from layerpipe2.lab.judging.objectives import at_the_end, best
from layerpipe2.lab.runs.record_schema import TIMES
from layerpipe2.lab.runs.records import record_text
from layerpipe2.lab.tracking.book import Book, is_parent
from layerpipe2.lab.tracking.entry import CELL, FINGERPRINT, KEY, TUNE, digest
from layerpipe2.lab.tracking.metrics import WON_BACK, Point, mean_curves, of_end, of_epochs
from layerpipe2.lab.tracking.outcome import files_of, tags_of
from layerpipe2.lab.tracking.subject import Subject

LAYOUT = 2
"""Of the copies: another one than before has all records copied again."""


class Copy(NamedTuple):
    """What is copied: a run, its record, the record's file; what its cell wins back (%), where that is told."""

    subject: Subject
    record: Mapping[str, Any]
    file: Path
    won_back: float | None = None


def fingerprint(copies: Iterable[Copy]) -> str:
    """Of the copies of a cell: their content, without times, and what their pages show of it."""
    shown = sorted([c.subject.key, c.subject.name, content(c.record), c.subject.objective] for c in copies)
    return digest([LAYOUT, shown, sorted({c.won_back for c in copies}, key=str)])


def content(record: Mapping[str, Any]) -> str:
    """Digest of a record without its times: a rerun that gives the same numbers has the same."""
    where = {name: value for name, value in record["provenance"].items() if name not in TIMES}
    return digest({**record, "provenance": where})


def copy(book: Book, copies: Sequence[Copy]) -> int:
    """Copy what is new or another than before; returns the number of records copied."""
    cells: dict[str, list[Copy]] = {}
    for one in copies:
        cells.setdefault(one.subject.cell, []).append(one)
    prints = {cell: fingerprint(found) for cell, found in cells.items()}
    runs = [run for run in book.runs() if CELL in run.data.tags]
    kept = {run.data.tags[CELL] for run in runs if is_parent(run) and _whole(run, prints)}
    book.adopt(run for run in runs if run.data.tags[CELL] in kept)
    book.remove(_replaced(runs, kept, set(prints), {str(one.subject.key) for one in copies}))
    _mark(book, runs, kept, set(cells))
    new = [(prints[cell], found) for cell, found in cells.items() if cell not in kept]
    for mark, found in new:
        _copy_cell(book, found, mark)
    book.client.write()
    book.summarize()
    book.client.write()
    return sum(len(found) for _, found in new)


def _whole(parent: Run, prints: Mapping[str, str]) -> bool:
    tags = parent.data.tags
    return str(parent.info.status) == "FINISHED" and bool(tags.get(FINGERPRINT) == prints.get(tags[CELL], ""))


def _replaced(runs: Iterable[Run], kept: Collection[str], cells: Collection[str], keys: Collection[str]) -> list[Run]:
    """Runs that are copied again, those that never finished, and those whose record is another run's now."""
    return [
        run
        for run in runs
        if run.data.tags[CELL] not in kept
        and (
            run.data.tags[CELL] in cells
            or run.info.status != "FINISHED"
            or (not is_parent(run) and run.data.tags[KEY] in keys)
        )
    ]


def _mark(book: Book, runs: Iterable[Run], kept: Collection[str], cells: Collection[str]) -> None:
    """Say of the runs that stay whether their record is still there."""
    for run in runs:
        cell = run.data.tags[CELL]
        current = "true" if cell in cells else "false"
        if (cell in kept or cell not in cells) and run.data.tags.get("current") != current:
            book.client.set_tag(run.info.run_id, "current", current)


def _copy_cell(book: Book, copies: Sequence[Copy], mark: str) -> None:
    first = copies[0]
    starts = list(map(_start, copies))
    parent = book.parent(first.subject.entry, min(starts), **{FINGERPRINT: mark})
    for found, start in zip(copies, starts, strict=True):
        identity = book.begin(found.subject.entry, start, **tags_of(found.record))
        book.log(identity, [*of_epochs(found.record), *of_end(found.record)])
        for name, text in files_of(found.record, record_text(dict(found.record))).items():
            book.client.log_text(identity, text, name)
        book.end(identity, at=start + (found.record["provenance"]["wall_time_s"] or 0.0))
    book.log(parent, mean_curves(of_epochs(c.record) for c in copies))
    if first.won_back is not None:
        book.log(parent, [Point(WON_BACK, first.won_back, 0)])
    objective = first.subject.objective
    if objective and first.subject.phase == TUNE:
        completed = [c.record for c in copies if c.record["status"] == "completed"]
        for chosen in best(completed, (objective,), lambda record: [at_the_end(record, objective)]):
            book.log(parent, of_end(chosen))


def _start(copy: Copy) -> float:
    """When a run started, in s since 1970; of one that another machine trained, when its file was written here."""
    started = copy.record["provenance"]["started"]
    return datetime.fromisoformat(started).timestamp() if started else copy.file.stat().st_mtime
