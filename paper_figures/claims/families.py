"""The families of comparisons behind the claims about accuracy. Each is corrected by itself (Holm)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from layerpipe2.networks import NETWORKS
from paper_figures.comparisons import Settings, compare, pairs
from paper_figures.designs import BY_NETWORK, LATEST, STASH, informative, own, pipeline_aware, reconstructions
from paper_figures.records.training import Records
from paper_figures.style import ordered

KINDS = ("convolutional", "fully connected")
"""The kinds of networks of claim C8 that are tested."""

BLOCK = ["network", "seed"]
"""The partitions of one network share initial weights and batches: their differences are averaged, not counted."""

Select = Callable[[Sequence[str]], list[str]]


def cells(records: Records, settings: Settings, select: Select = reconstructions) -> pd.DataFrame:
    """Each reconstruction against stash, per network and partition; the block is the seed.

    One Holm family of all reconstructions, the paper's and this project's own (``select`` of them are returned): none
    gets an easier test than another.
    """
    everything = _paired(records, STASH, lambda names: [*reconstructions(names), *own(names)])
    table = compare(everything, BY_NETWORK.cell, settings)
    return table[table["strategy"].isin(select(list(table["strategy"].unique())))].reset_index(drop=True)


def pooled(
    records: Records, settings: Settings, reference: str = STASH, select: Select = reconstructions
) -> pd.DataFrame:
    """The selected strategies against ``reference`` over all informative partitions of all networks."""
    return compare(_informative(_paired(records, reference, select), records), ["strategy"], settings, BLOCK)


def by_kind(records: Records, settings: Settings) -> pd.DataFrame:
    """Each pipeline-aware reconstruction against stash per kind of network."""
    paired = _informative(_paired(records, STASH, pipeline_aware), records)
    paired = paired.assign(kind=[NETWORKS[name].kind for name in paired["network"]])
    return compare(paired[paired["kind"].isin(KINDS)], ["kind", "strategy"], settings, BLOCK)


def control(records: Records, settings: Settings) -> pd.DataFrame:
    """Latest weights against stash, pooled: can this experiment tell a bad strategy from a good one?"""
    return pooled(records, settings, select=lambda names: [LATEST])


def deepest(records: Records, settings: Settings) -> pd.DataFrame:
    """Latest weights and every reconstruction against stash, at each network's largest number of stages that trains."""
    paired = _informative(_paired(records, STASH, lambda names: [LATEST, *reconstructions(names)]), records)
    paired = paired[paired["num_stages"] == paired.groupby("network")["num_stages"].transform("max")]
    return compare(paired, ["strategy"], settings, BLOCK)


def _paired(records: Records, reference: str, select: Select) -> pd.DataFrame:
    paired = pairs(records.runs, reference, BY_NETWORK)
    wanted = ordered(select(paired["strategy"].unique()))
    places = {name: place for place, name in enumerate(wanted)}
    return paired[paired["strategy"].isin(wanted)].sort_values("strategy", key=lambda s: s.map(places), kind="stable")


def _informative(paired: pd.DataFrame, records: Records) -> pd.DataFrame:
    return informative(paired, records.runs, BY_NETWORK)
