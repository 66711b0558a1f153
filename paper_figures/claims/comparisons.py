"""Which runs are compared with which: the families of comparisons behind the claims about accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from paper_figures.claims.equivalence import CELL, Settings, compare, own, pairs, pipeline_aware, reconstructions
from paper_figures.records import CONFIGURATION, Records
from paper_figures.style import ordered

KINDS: Mapping[str, str] = {
    "mlp": "fully connected",
    "vgg": "convolutional",
    "resnet18": "convolutional",
    "resnet-small": "convolutional",
}
"""Network -> the kind of network of claim C8."""

_BLOCK = ["network", "seed"]


LEARNT = 0.5
"""Share of the sequential accuracy that stash must reach for a partition to say anything about reconstruction."""


def untrained(records: Records) -> list[tuple[str, int, int]]:
    """(network, group size, stages) where stash itself hardly trains: being equal to it is no evidence there."""
    mean = records.runs.groupby([*CONFIGURATION, "num_stages", "strategy"])["test_accuracy"].mean().reset_index()
    base = mean[mean["strategy"] == "sequential"].set_index("network")["test_accuracy"]
    found = []
    for row in mean[(mean["strategy"] == "stash") & (mean["num_stages"] > 1)].to_dict("records"):
        needed = LEARNT * base.get(row["network"], 0.0)
        if not row["test_accuracy"] >= needed:  # also where every stash run diverged
            found.append((row["network"], row["group_size"], row["num_stages"]))
    return found


def informative(table: pd.DataFrame, records: Records) -> pd.DataFrame:
    """The rows of a table with CONFIGURATION columns whose partition is not :func:`untrained`."""
    left_out = {(network, group) for network, group, _ in untrained(records)}
    keep = [key not in left_out for key in zip(table["network"], table["group_size"], strict=True)]
    return table[pd.Series(keep, index=table.index, dtype=bool)]


def cells(records: Records, settings: Settings) -> pd.DataFrame:
    """Each reconstruction against stash, per network and partition; the block is the seed.

    One Holm family with this project's own (:func:`own_cells`): none gets an easier test than another.
    """
    return _of(_all_cells(records, settings), reconstructions)


def _all_cells(records: Records, settings: Settings) -> pd.DataFrame:
    everything = _paired(records, "stash", lambda names: [*reconstructions(names), *own(names)])
    return compare(everything, CELL, ["seed"], settings)


def _of(table: pd.DataFrame, select: Callable[[Sequence[str]], list[str]]) -> pd.DataFrame:
    return table[table["strategy"].isin(select(list(table["strategy"].unique())))].reset_index(drop=True)


def pooled(records: Records, settings: Settings, reference: str = "stash") -> pd.DataFrame:
    """Each reconstruction against ``reference`` over all informative partitions of all networks. One Holm family.

    The block is network x seed: the partitions of one network share initial weights and batches, so their
    differences are averaged, not counted.
    """
    return compare(informative(_paired(records, reference), records), ["strategy"], _BLOCK, settings)


def by_kind(records: Records, settings: Settings) -> pd.DataFrame:
    """Each pipeline-aware reconstruction against stash per kind of network. One Holm family."""
    paired = informative(_paired(records, "stash"), records)
    paired = paired[paired["strategy"].isin(pipeline_aware(paired["strategy"].unique()))]
    paired = paired.assign(kind=paired["network"].map(KINDS))
    return compare(paired[paired["kind"].notna()], ["kind", "strategy"], _BLOCK, settings)


def control(records: Records, settings: Settings) -> pd.DataFrame:
    """Latest weights against stash, pooled: can this experiment tell a bad strategy from a good one?"""
    paired = informative(pairs(records.runs, "stash"), records)
    return compare(paired[paired["strategy"] == "latest"], ["strategy"], _BLOCK, settings)


def deepest(records: Records, settings: Settings) -> pd.DataFrame:
    """Latest weights and every reconstruction against stash, at each network's largest number of stages that trains."""
    paired = informative(pairs(records.runs, "stash"), records)
    paired = paired[paired["num_stages"] == paired.groupby("network")["num_stages"].transform("max")]
    names = ordered(["latest", *reconstructions(paired["strategy"].unique())])
    rows = [paired[paired["strategy"] == name] for name in names]
    return compare(pd.concat(rows), ["strategy"], _BLOCK, settings)


def own_cells(records: Records, settings: Settings) -> pd.DataFrame:
    """This project's own reconstructions against stash, per network and partition; see :func:`cells`."""
    return _of(_all_cells(records, settings), own)


def own_pooled(records: Records, settings: Settings, reference: str = "stash") -> pd.DataFrame:
    """The same against ``reference`` over all informative partitions, with blocks as in :func:`pooled`."""
    return compare(informative(_paired(records, reference, own), records), ["strategy"], _BLOCK, settings)


def _paired(
    records: Records, reference: str, select: Callable[[Sequence[str]], list[str]] = reconstructions
) -> pd.DataFrame:
    paired = pairs(records.runs, reference)
    wanted = ordered(select(paired["strategy"].unique()))
    places = {name: place for place, name in enumerate(wanted)}
    return paired[paired["strategy"].isin(wanted)].sort_values("strategy", key=lambda s: s.map(places), kind="stable")
