"""What README.md says of the experiment at full scale, made from the records of the published profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from paper_figures import labels, tables
from paper_figures.claims.equivalence import Settings
from paper_figures.full_scale.comparisons import left_out
from paper_figures.full_scale.records import CampaignRecords
from paper_figures.full_scale.tables import accuracy
from paper_figures.full_scale.verdicts import NOT_TESTED, verdicts

NAME = "full-scale"
"""Of the markers between which it stands."""


def section(campaigns: Sequence[CampaignRecords], settings: Settings, pages: Sequence[str]) -> str:
    """Answers and accuracies, a column per profile; ``pages`` are links to their pages, in the same order."""
    titles = [_title(records) for records in campaigns]
    answers = _beside(titles, [_answers(records, settings) for records in campaigns], "question")
    accuracies = _beside(titles, [_accuracy(records) for records in campaigns], "test accuracy (%)")
    evidence = [_evidence(*each) for each in zip(titles, pages, campaigns, strict=True)]
    return (
        f"{tables.markdown(answers)}\n{tables.markdown(accuracies)}\n"
        "Mean ± SD over n seeds; 'sequential' has one stage. Tests and evidence:\n\n" + "\n".join(evidence)
    )


def _title(records: CampaignRecords) -> str:
    settings, runs = records.campaign.profile.settings, records.runs
    network, data = labels.network_label(runs["network"].iloc[0]), labels.dataset_label(runs["dataset"].iloc[0])
    width = f" of width {settings['width']}" if "width" in settings else ""
    epochs, stages = int(settings["epochs"]), ", ".join(map(str, records.campaign.profile.stages))
    return f"{network}{width}, {data}, {stages} stages, {epochs} epoch{'s' if epochs > 1 else ''}"


def _evidence(title: str, page: str, records: CampaignRecords) -> str:
    without, missing = left_out(records.runs), records.planned - records.finished
    notes = f". Left out of the answers, since exact stashing itself does not train: {without}" if without else ""
    return f"- [{title}]({page})" + (f", {missing} of {records.planned} runs missing" if missing else "") + notes


def _answers(records: CampaignRecords, settings: Settings) -> dict[str, str]:
    return {v.question: v.answer for v in verdicts(records.runs, settings) if v.answer != NOT_TESTED}


def _accuracy(records: CampaignRecords) -> dict[str, str]:
    """At the deepest pipeline; of several optimizers or numbers of stages each is named."""
    most = records.runs["num_stages"].max()
    deepest = replace(records, runs=records.runs[records.runs["num_stages"].isin([1, most])])
    table = accuracy(deepest).drop(columns="copies of the weights").set_index("strategy")
    if len(records.campaign.profile.optimizers) * len(records.campaign.profile.stages) > 1:
        table = table.apply(lambda column: [f"{column.name}: {cell}" if cell != "–" else cell for cell in column])
    return {str(row.Index): "; ".join(cell for cell in row[1:] if cell != "–") for row in table.itertuples(name="Row")}


def _beside(titles: Sequence[str], columns: Sequence[Mapping[str, str]], first: str) -> pd.DataFrame:
    rows = dict.fromkeys(name for column in columns for name in column)
    cells = {title: [column.get(name, "–") for name in rows] for title, column in zip(titles, columns, strict=True)}
    return pd.DataFrame({first: list(rows), **cells}, dtype=object)
