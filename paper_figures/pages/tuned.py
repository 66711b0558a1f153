"""The page of a tuned experiment: verdicts first, then the evidence. Every number is computed from the records."""

from functools import partial
from typing import Any

import pandas as pd

from paper_figures.claims import tuned as claims
from paper_figures.comparisons import Settings
from paper_figures.figures import tuned as figures
from paper_figures.pages import Page
from paper_figures.records.tuned import TunedRecords
from paper_figures.tables import tuned as tables
from paper_figures.text import dataset_label, duration, law_label, law_of, network_label
from paper_figures.verdicts import Verdict

_FAMILIES = (
    ("Reconstruction against exact stashing", claims.against_stash, "equivalent"),
    ("Reconstruction against the latest weights", claims.against_latest, "superior"),
    ("Latest weights against exact stashing", claims.latest_against_stash, "equivalent"),
    ("Applied updates against raw gradients", claims.applied_against_raw, "superior"),
    ("Warm-up with exact weights against none", claims.warm_up_against_none, "superior"),
    ("Exact stashing against sequential training: what the delay costs", claims.stash_against_sequential, "equivalent"),
)
"""Title, family of comparisons, and the hypothesis whose p-value is shown."""


def page(records: TunedRecords) -> Page:
    """The page with its figures and tables."""
    settings = Settings.from_report(records.experiment["report"])
    found = claims.verdicts(records.runs, settings)
    exact = {name: getattr(records, name) for name in ("runs", "epochs", "tuning")}
    exact["against_stash"] = claims.against_stash(records.runs, settings)
    drawn = {
        "accuracy": partial(figures.accuracy, records),
        "differences": partial(figures.differences, records, settings),
    }
    content = _state(records) | _evidence(records, settings, found)
    return Page("page", "tuned.md", content, found, drawn, exact)


def _state(records: TunedRecords) -> dict[str, Any]:
    """What was run, where and when; the template says it loudly if something is missing."""
    runs = records.runs
    return {
        "name": records.name,
        "network": network_label(runs["network"].iloc[0]),
        "dataset": dataset_label(runs["dataset"].iloc[0]),
        "runs": runs,
        "epochs": records.experiment["epochs"] or "the default",
        "seeds": ", ".join(map(str, sorted(runs["seed"].unique()))),
        "diverged": int((runs["status"] == "diverged").sum()),
        "tuning": len(records.tuning),
        "devices": ", ".join(sorted(runs["device"].unique())),
        "hours": duration(float(runs["wall_time_s"].sum())),
        "commits": ", ".join(sorted({str(c)[:12] for c in runs["commit"].dropna()})) or "none recorded",
        "law": law_label(law_of(runs)),
        "finished": records.finished,
        "planned": records.planned,
    }


def _evidence(records: TunedRecords, settings: Settings, found: list[Verdict]) -> dict[str, Any]:
    runs = records.runs
    answers = [(verdict.question, verdict.word, verdict.caveat) for verdict in found]
    compared = [(title, family(runs, settings), p_value) for title, family, p_value in _FAMILIES]
    slopes = claims.trends(runs, settings)
    return {
        "verdict_table": pd.DataFrame(answers, columns=["question", "answer", "where"]),
        "level": f"{settings.level:g}",
        "margin": f"{settings.margin:g}",
        "accuracy": tables.accuracy(records),
        "families": [(title, tables.comparison(table, p)) for title, table, p in compared if len(table)],
        "trends": tables.trends(slopes) if len(slopes) else None,
        "trend_interval": f"{100 * (1 - settings.level):g}",
        "chosen": tables.chosen(records),
        "left_out": claims.left_out(runs),
        "edges": int(records.chosen["edge"].sum()),
        "rates": len(records.chosen),
    }
