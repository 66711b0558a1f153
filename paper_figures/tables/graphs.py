"""Tables of the measurements on sampled graphs, as text for readers."""

import pandas as pd

from layerpipe2.strategies import find_strategy
from paper_figures.records.graphs import GraphRecord
from paper_figures.text import mean_spread, median_range, percent

_SALIENT = {
    "ogbn-arxiv": ((441, 1063, 180, 1683), (427, 47.5, 1.1, 477), 3.5),
    "ogbn-products": ((2416, 4800, 1715, 8931), (2431, 372, 7.4, 2812), 3.2),
    "papers100M": ((13453, 27394, 14103, 54951), (14109, 2373, 19.3, 16513), 3.3),
}
"""Kaler et al. (MLSys 2022), ms per epoch on one V100: train, sample + slice, transfer, all; the ratio as printed."""


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


def salient() -> pd.DataFrame:
    """SALIENT's published times, marked as theirs."""
    rows = [
        [name, who, *(f"{value:g}" for value in found), ratio]
        for name, (pyg, theirs, published) in _SALIENT.items()
        for who, found, ratio in (("PyG", pyg, ""), ("SALIENT", theirs, f"{published}×"))
    ]
    columns = ["graph (theirs)", "system", "train (ms)", "sample + slice (ms)", "transfer (ms)", "epoch (ms)", "speed"]
    return pd.DataFrame(rows, columns=columns)


def sampling(record: GraphRecord) -> pd.DataFrame:
    """Sampling alone."""
    rows = []
    for (name, threads), mine in record.sampling.groupby(["sampler", "threads"], sort=False):
        ratio = median_range(record.sampling_ratio(int(threads))) if name == "compiled" else "–"
        against = "–" if name != "compiled" else "numpy" if threads == 1 else "one thread"
        rows.append([name, threads, f"{mine['wall'].median():.2f}", f"{mine['cpu'].median():.2f}", ratio, against])
    columns = ["sampler", "threads", "per mini-batch (ms)", "processor time (ms)", "speed", "over"]
    return pd.DataFrame(rows, columns=columns)


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


def accuracy(record: GraphRecord) -> pd.DataFrame:
    """Accuracy on the test nodes in per cent, mean and standard deviation over seeds."""
    assert record.accuracy is not None
    groups = (100 * record.accuracy["accuracy"]).groupby([record.accuracy["network"], record.accuracy["strategy"]])
    spreads = groups.agg(lambda values: mean_spread(values.mean(), values.std(), len(values)))
    table = spreads.unstack()[record.accuracy["strategy"].unique()].reset_index()
    return table.rename(columns={name: find_strategy(name).label for name in table.columns[1:]})
