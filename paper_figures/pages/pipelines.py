"""The page of the measured pipelines: what was aimed at and reached, then the evidence."""

from __future__ import annotations

import pandas as pd

from paper_figures import variant_style
from paper_figures.claims.pipelines import claims
from paper_figures.figures.pipelines import catalogue
from paper_figures.pages import Page
from paper_figures.records.pipelines import PipelineRecords
from paper_figures.tables import pipelines as tables
from paper_figures.text import dataset_label

_BUSY = 0.5  # load average before the first measurement


def page(records: PipelineRecords) -> Page:
    """The page with its figures and tables."""
    bench, found, drawn, shown = records.main, claims(records), catalogue(records), tables.catalogue(records)
    threaded = f"threads/{bench.options['processes']}"
    answers = [(claim.question, claim.word) for claim in found]
    content = {
        "bench": bench,
        "cuts": records.cuts,
        "dataset": dataset_label(bench.options["dataset"]),
        "options": bench.options,
        "where": bench.provenance,
        "commit": str(bench.provenance["commit"])[:12],
        "busy": bench.provenance["load_average"] > _BUSY,
        "verdict_table": pd.DataFrame(answers, columns=["question", "answer"]),
        "claims": found,
        "tables": shown,
        "figures": drawn,
        "threads": variant_style.label(threaded) if threaded in set(bench.variants["variant"]) else "",
    }
    return Page("pipelines", "pipelines.md", content, found, drawn, shown, shown)
