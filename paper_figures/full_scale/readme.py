"""What README.md says of the experiment at full scale, made from the records of every profile that has some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from paper_figures import labels, tables
from paper_figures.claims.equivalence import Settings
from paper_figures.full_scale.records import CampaignRecords
from paper_figures.full_scale.tables import accuracy
from paper_figures.full_scale.verdicts import NO_ANSWER, NOT_TESTED, verdicts

NAME = "full-scale"
"""Of the markers between which it stands."""


def section(campaigns: Sequence[CampaignRecords], settings: Settings, pages: Sequence[str]) -> str:
    """Answers and accuracies, a column per profile; ``pages`` are links to their pages, in the same order."""
    titles = [_title(records) for records in campaigns]
    answers = _beside(titles, [_answers(records, settings) for records in campaigns], "question")
    accuracies = _beside(titles, [_accuracy(records) for records in campaigns], "test accuracy (%)")
    unanswered = "No answer: exact stashing itself stays below half of the sequential accuracy there. "
    listed = "; ".join(f"[{title}]({page}){_state(r)}" for title, page, r in zip(titles, pages, campaigns, strict=True))
    return (
        f"{tables.markdown(answers)}\n{tables.markdown(accuracies)}\n"
        f"Mean ± SD over n seeds at the deepest pipeline; 'sequential' has one stage. "
        f"{unanswered if (answers == NO_ANSWER).any(axis=None) else ''}Tests and evidence: {listed}."
    )


def _title(records: CampaignRecords) -> str:
    settings, runs = records.campaign.profile.settings, records.runs
    network, data = labels.network_label(runs["network"].iloc[0]), labels.dataset_label(runs["dataset"].iloc[0])
    epochs = int(settings["epochs"])
    width = f" of width {settings['width']}" if "width" in settings else ""
    return f"{network}{width}, {data}, {runs['num_stages'].max()} stages, {epochs} epoch{'s' if epochs > 1 else ''}"


def _state(records: CampaignRecords) -> str:
    missing = records.planned - records.finished
    return f" (missing: {missing} of {records.planned} runs)" if missing else ""


def _answers(records: CampaignRecords, settings: Settings) -> dict[str, str]:
    return {v.question: v.answer for v in verdicts(records.runs, settings) if v.answer != NOT_TESTED}


def _accuracy(records: CampaignRecords) -> dict[str, str]:
    deepest = records.runs["num_stages"].isin([1, records.runs["num_stages"].max()])
    table = accuracy(replace(records, runs=records.runs[deepest])).drop(columns="copies of the weights")
    return {name: "; ".join(cell for cell in cells if cell != "–") for name, *cells in table.to_numpy()}


def _beside(titles: Sequence[str], columns: Sequence[Mapping[str, str]], first: str) -> pd.DataFrame:
    rows = dict.fromkeys(name for column in columns for name in column)
    cells = {title: [column.get(name, "–") for name in rows] for title, column in zip(titles, columns, strict=True)}
    return pd.DataFrame({first: list(rows), **cells}, dtype=object)
