"""Sampled graphs: what was aimed at and reached, and tables of the measurements."""

import pandas as pd

from layerpipe2.strategies import find_strategy
from paper_figures.graphs.record import GraphRecord, graphs
from paper_figures.text import mean_spread, median_range, percent
from paper_figures.verdicts import AIM, MODEL, Answer, Verdict

SAMPLER, SCALING, PIPELINED, MODELLED = 10.0, 1.8, 1.10, 0.10
"""Aims: speed over numpy, speed of two threads, epoch over the larger part; most that the prediction may be off."""


@graphs.claim(each="record in records")
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


_SALIENT = {
    "ogbn-arxiv": ((441, 1063, 180, 1683), (427, 47.5, 1.1, 477), 3.5),
    "ogbn-products": ((2416, 4800, 1715, 8931), (2431, 372, 7.4, 2812), 3.2),
    "papers100M": ((13453, 27394, 14103, 54951), (14109, 2373, 19.3, 16513), 3.3),
}
"""Kaler et al. (MLSys 2022), ms per epoch on one V100: train, sample + slice, transfer, all; the ratio as printed."""


@graphs.table("times_{record.name}", each="record in records")
def times(record: GraphRecord) -> pd.DataFrame:
    """Time of an epoch's parts per mini-batch, from the training's point of view, and speed over the plain loader."""
    medians = record.times.groupby("variant")[["train", "prepare", "transfer", "epoch"]].median().loc[record.variants]
    columns = {
        "loader": record.variants,
        "train (ms)": [f"{value:.1f}" for value in medians["train"]],
        "wait for sample + slice (ms)": [f"{value:.2f}" for value in medians["prepare"]],
        "transfer (ms)": [f"{value:.2f}" if value else "–" for value in medians["transfer"]],
        "per mini-batch (ms)": [f"{value:.1f}" for value in medians["epoch"]],
        "speed over the plain loader": [median_range(record.speed_up(name)) for name in record.variants],
    }
    return pd.DataFrame(columns)


@graphs.table("salient")
def salient() -> pd.DataFrame:
    """SALIENT's published times, marked as theirs."""
    rows = [
        [name, who, *(f"{value:g}" for value in found), ratio]
        for name, (pyg, theirs, published) in _SALIENT.items()
        for who, found, ratio in (("PyG", pyg, ""), ("SALIENT", theirs, f"{published}×"))
    ]
    columns = ["graph (theirs)", "system", "train (ms)", "sample + slice (ms)", "transfer (ms)", "epoch (ms)", "speed"]
    return pd.DataFrame(rows, columns=columns)


@graphs.table("sampling_{record.name}", each="record in records")
def sampling(record: GraphRecord) -> pd.DataFrame:
    """Sampling alone."""
    rows = []
    for (name, threads), mine in record.sampling.groupby(["sampler", "threads"], sort=False):
        ratio = median_range(record.sampling_ratio(int(threads))) if name == "compiled" else "–"
        against = "–" if name != "compiled" else "numpy" if threads == 1 else "one thread"
        rows.append([name, threads, f"{mine['wall'].median():.2f}", f"{mine['cpu'].median():.2f}", ratio, against])
    columns = ["sampler", "threads", "per mini-batch (ms)", "processor time (ms)", "speed", "over"]
    return pd.DataFrame(rows, columns=columns)


@graphs.table("predictions_{record.name}", each="record in records")
def predictions(record: GraphRecord) -> pd.DataFrame:
    """Measured and predicted time per mini-batch, medians over rounds; errors are the median's."""
    medians = record.predictions.groupby("variant", sort=False).median(numeric_only=True)
    columns = {"loader": list(medians.index)}
    for name in ("preparation", "training", "measured"):
        columns[f"{name} (ms)"] = [f"{value:.1f}" for value in medians[name]]
    for name in ("maximum", "queue"):
        off = medians[name] / medians["measured"] - 1
        pairs = zip(medians[name], off, strict=True)
        columns[f"by {name} (ms)"] = [f"{value:.1f} ({percent(error, '+.0f')})" for value, error in pairs]
    return pd.DataFrame(columns)


@graphs.table("accuracy_{record.name}", each="record in records", when=lambda record: record.accuracy is not None)
def accuracy(record: GraphRecord) -> pd.DataFrame:
    """Accuracy on the test nodes in per cent, mean and standard deviation over seeds."""
    assert record.accuracy is not None
    groups = (100 * record.accuracy["accuracy"]).groupby([record.accuracy["network"], record.accuracy["strategy"]])
    spreads = groups.agg(lambda values: mean_spread(values.mean(), values.std(), len(values)))
    table = spreads.unstack()[record.accuracy["strategy"].unique()].reset_index()
    return table.rename(columns={name: find_strategy(name).label for name in table.columns[1:]})


@graphs.value
def most_load(records: list[GraphRecord]) -> float:
    """The largest load average before a measurement."""
    return max(float(record.provenance["load_average"]) for record in records)
