"""The page of sampled graphs: what was aimed at and reached, then the evidence."""

from functools import partial

import pandas as pd

from paper_figures.figures import graphs as figures
from paper_figures.pages import Page
from paper_figures.records.graphs import GraphRecord
from paper_figures.tables import graphs as tables
from paper_figures.text import median_range, percent
from paper_figures.verdicts import AIM, MODEL, Answer, Verdict

SAMPLER, SCALING, PIPELINED, MODELLED = 10.0, 1.8, 1.10, 0.10
"""Aims: speed over numpy, speed of two threads, epoch over the larger part; most that the prediction may be off."""


def page(records: list[GraphRecord]) -> Page:
    """The page with its figures and tables."""
    found = [verdict for record in records for verdict in verdicts(record)]
    shown = {"salient": tables.salient()}
    for record in records:
        kinds = ["times", "sampling", "predictions", *(["accuracy"] if record.accuracy is not None else [])]
        shown |= {f"{kind}_{record.name}": getattr(tables, kind)(record) for kind in kinds}
    drawn = {f"timeline_{record.name}": partial(figures.timeline, record) for record in records}
    answers = [(verdict.question, verdict.word) for verdict in found]
    content = {
        "records": records,
        "busy": any(record.is_busy for record in records),
        "most_load": max(record.provenance["load_average"] for record in records),
        "verdict_table": pd.DataFrame(answers, columns=["question", "answer"]),
        "verdicts": found,
        "tables": shown,
    }
    return Page(
        "graphs", "graphs.md", content, found, {"epochs": partial(figures.epochs, records), **drawn}, shown, shown
    )


def verdicts(record: GraphRecord) -> list[Verdict]:
    """What was aimed at, from the medians over rounds."""
    found = [_sampler(record, 1, SAMPLER, "the compiled sampler over a vectorised one in numpy, one thread each")]
    if (record.sampling["threads"] == 2).any():
        found.append(_sampler(record, 2, SCALING, "the compiled sampler in two threads over one"))
    return [*found, _pipelined(record), _predicted(record)]


def _sampler(record: GraphRecord, threads: int, aim: float, what: str) -> Verdict:
    ratio = record.sampling_ratio(threads)
    answer = _answer(ratio.median() >= aim, record, threads > 1)
    text = f"Aim: {aim:g}×; {median_range(ratio)}."
    return Verdict(f"{record.name}: {what}", answer, AIM, n=len(ratio), evidence=(text,))


def _answer(reached: bool, record: GraphRecord, several_threads: bool = True) -> Answer:
    """An aim for several threads that was missed where they competed with other work is not decided."""
    if reached:
        return Answer.YES
    return Answer.UNDECIDED if several_threads and record.is_busy else Answer.NO


def _pipelined(record: GraphRecord) -> Verdict:
    first = record.predictions["variant"].iloc[0]
    mine = record.predictions[record.predictions["variant"] == first]
    ratio = mine["measured"] / mine[["preparation", "training"]].max(axis=1)
    text = (
        f"Aim: at most {PIPELINED:g} times the larger of preparation and training, each measured alone. "
        f"{str(first).capitalize()}: {median_range(ratio)}; both threads share caches and memory, and their cores with "
        "whatever else runs."
    )
    answer, question = (
        _answer(ratio.median() <= PIPELINED, record),
        "a pipelined epoch takes as long as its larger part",
    )
    return Verdict(f"{record.name}: {question}", answer, AIM, n=len(ratio), evidence=(text,))


def _predicted(record: GraphRecord) -> Verdict:
    medians = record.predictions.groupby("variant", sort=False).median(numeric_only=True)
    off = {name: (medians[name] / medians["measured"] - 1).abs().max() for name in ("maximum", "queue")}
    text = (
        "The larger part instead of the sum of both, after the first mini-batch, is off by at most "
        f"{percent(off['maximum'])}; following the queue mini-batch by mini-batch, by at most {percent(off['queue'])}."
    )
    answer, question = _answer(min(off.values()) <= MODELLED, record), "the pipelined epoch predicted from its parts"
    return Verdict(f"{record.name}: {question}", answer, MODEL, n=record.options["rounds"], evidence=(text,))
