"""The families of comparisons behind the claims about accuracy. Each is corrected by itself (Holm)."""

from collections.abc import Callable, Sequence

import pandas as pd

from layerpipe2.networks import NETWORKS
from paper_figures.comparisons import Settings, compare, pairs
from paper_figures.designs import BY_NETWORK, LATEST, STASH, informative, own, pipeline_aware, reconstructions
from paper_figures.style import ordered

KINDS = ("convolutional", "fully connected")
"""The kinds of networks of claim C8 that are tested."""

BLOCK = ["network", "seed"]
"""The partitions of one network share initial weights and batches: their differences are averaged, not counted."""

Select = Callable[[Sequence[str]], list[str]]


def cells(runs: pd.DataFrame, settings: Settings, select: Select = reconstructions) -> pd.DataFrame:
    """Each reconstruction against stash, per network and partition; the block is the seed.

    One Holm family of all reconstructions, the paper's and this project's own (``select`` of them are returned): none
    gets an easier test than another.
    """
    everything = _paired(runs, STASH, lambda names: [*reconstructions(names), *own(names)])
    table = compare(everything, BY_NETWORK.cell, settings)
    return table[table["strategy"].isin(select(list(table["strategy"].unique())))].reset_index(drop=True)


def pooled(
    runs: pd.DataFrame, settings: Settings, reference: str = STASH, select: Select = reconstructions
) -> pd.DataFrame:
    """The selected strategies against ``reference`` over all informative partitions of all networks."""
    return compare(_informative(runs, reference, select), ["strategy"], settings, BLOCK)


def aware(runs: pd.DataFrame) -> pd.DataFrame:
    """The pairs behind C6 and C8: pipeline-aware reconstructions and stash, with the kind of their network."""
    paired = _informative(runs, STASH, pipeline_aware)
    return paired.assign(kind=[NETWORKS[name].kind for name in paired["network"]])


def by_kind(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Each pipeline-aware reconstruction against stash per kind of network."""
    paired = aware(runs)
    return compare(paired[paired["kind"].isin(KINDS)], ["kind", "strategy"], settings, BLOCK)


def control(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Latest weights against stash, pooled: can this experiment tell a bad strategy from a good one?"""
    return pooled(runs, settings, select=lambda names: [LATEST])


def deepest(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Latest weights and every reconstruction against stash, at each network's largest number of stages that trains."""
    paired = _informative(runs, STASH, lambda names: [LATEST, *reconstructions(names)])
    paired = paired[paired["num_stages"] == paired.groupby("network")["num_stages"].transform("max")]
    return compare(paired, ["strategy"], settings, BLOCK)


def _paired(runs: pd.DataFrame, reference: str, select: Select) -> pd.DataFrame:
    paired = pairs(runs, reference, BY_NETWORK)
    wanted = ordered(select(paired["strategy"].unique()))
    places = {name: place for place, name in enumerate(wanted)}
    return paired[paired["strategy"].isin(wanted)].sort_values("strategy", key=lambda s: s.map(places), kind="stable")


def _informative(runs: pd.DataFrame, reference: str, select: Select) -> pd.DataFrame:
    return informative(_paired(runs, reference, select), runs, BY_NETWORK)
