"""All results in a folder by what names them: verdicts by claim, outcomes by cell, values by run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import PIPELINE
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import read_json
from paper_figures.claims.assay import in_place_of_a_verdict
from paper_figures.published import PAGES, RESULTS
from paper_figures.records import TEXT
from paper_figures.records.training import RUN

REPORT = "report"
"""The page that ``make reproduce`` makes of its own training runs."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "runs": tuple(RUN),
    "epochs": (*RUN, "epoch"),
    "reconstruction": ("network", "group_size", "seed", "rate", "stage", "strategy"),
    "stages": ("network", "group_size", "stage"),
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
