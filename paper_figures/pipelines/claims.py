"""All claims of the page; that on the bubble."""

from __future__ import annotations

from paper_figures.pipelines import variants
from paper_figures.pipelines.accuracy_claims import accuracy
from paper_figures.pipelines.answers import NOT_MEASURED, Claim, percent
from paper_figures.pipelines.bubble import steady
from paper_figures.pipelines.memory_claims import held
from paper_figures.pipelines.records import PipelineRecords, Study
from paper_figures.pipelines.speed_claims import cut, over_peers, over_plain, predicted, split


def claims(records: PipelineRecords) -> list[Claim]:
    """All of them, in the order of the page."""
    study = records.main
    return [over_plain(study), over_peers(study), idle(study), held(study), predicted(records), *map(cut, records.cuts),
            split(study), accuracy(study)]  # fmt: skip


def idle(study: Study) -> Claim:
    """The bubble, from time stamps."""
    found = {name: steady(events) for name, events in study.traces.items()}
    told = [
        f"{variants.label(name)}: {percent(s.mean_idle)} of {s.period:.1f} ms per mini-batch"
        for name, s in found.items()
    ]
    ours = [s.mean_idle for name, s in found.items() if variants.is_candidate(name)]
    theirs = [s.mean_idle for name, s in found.items() if variants.is_peer(name)]
    answer = "smaller" if max(ours, default=1.0) < min(theirs, default=1.0) else "not smaller"
    text = "Share of time in which a process computes nothing, in the steady state, from time stamps of one run each"
    return Claim("Bubble", answer if ours and theirs else NOT_MEASURED, f"{text}: {'; '.join(told)}.")
