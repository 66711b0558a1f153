"""All verdicts on the measured pipelines."""

from __future__ import annotations

from paper_figures.claims.pipelines.accuracy import accuracy
from paper_figures.claims.pipelines.memory import memory
from paper_figures.claims.pipelines.speed import cut, idle, over_plain, over_torch, predicted, split
from paper_figures.records.pipelines import PipelineRecords
from paper_figures.verdicts import Verdict


def claims(records: PipelineRecords) -> list[Verdict]:
    """All of them, in the order of the page."""
    bench = records.main
    first = [over_plain(bench), over_torch(bench), idle(bench), memory(bench), predicted(records)]
    return [*first, *map(cut, records.cuts), split(bench), accuracy(bench)]
